"""`emplifai track`: everything there once, brought back when lost, and never in the way of work."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import results_folder
from conftest import BIN, ROOT, environment
from emplifai import snapshot, track
from emplifai.paths import Paths

JOBS = 7 + 1 + 1 + 4 + 1  # models that answer, the tuned one, the judge, validate, split, bertscore, correlate; the report


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables and nothing in them: they take longer to make than all else."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], env=environment(), check=True, capture_output=True)
    return path


@pytest.fixture
def project(fresh, empty_database) -> Path:
    """Results of every stage, and a database with nothing in it."""
    shutil.copy(empty_database, fresh / "mlflow.db")
    return fresh


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    """A folder with fabricated results of every stage."""
    folder = tmp_path / "project"
    folder.mkdir()
    params = results_folder.project(folder, yaml.safe_load((ROOT / "params.yaml").read_text()))
    monkeypatch.chdir(folder)
    results_folder.write(params, Paths(), emotions=2)
    report = Paths().stage("report")
    (report / "figures").mkdir(parents=True)
    (report / "index.html").write_text("<!doctype html><title>report</title>")
    (report / "figures/loss.svg").write_text("<svg/>")
    results_folder.record(params, Paths(), "report")
    return folder


def call(folder: Path, timeout: float = 120, **env: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [BIN / "emplifai", "track"], cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done


def runs(folder: Path) -> list[dict]:
    """All runs of the experiment, read by MLflow's own client from a copy of the database."""
    client = read(folder)
    experiment = client.get_experiment_by_name("emplifai").experiment_id
    return [_plain(client, r) for r in client.search_runs([experiment], max_results=1000)]


def _plain(client, run) -> dict:
    info, data = run.info, run.data
    curve = client.get_metric_history(info.run_id, "training/loss") if "training/loss" in data.metrics else []
    return {
        "id": info.run_id,
        "name": info.run_name,
        "status": info.status,
        "start": info.start_time,
        "end": info.end_time,
        "tags": dict(data.tags),
        "params": data.params,
        "metrics": data.metrics,
        "data": [(d.dataset.name, d.dataset.digest, d.tags[0].value) for d in run.inputs.dataset_inputs],
        "files": sorted(f.path for f in client.list_artifacts(info.run_id)),
        "curve": len(curve),
    }


def comparable(found: list[dict]) -> list[dict]:
    """Runs without what MLflow draws anew: ids."""
    drop = ("mlflow.parentRunId", "mlflow.note.content")
    kept = [
        r | {"id": "", "tags": {k: v for k, v in r["tags"].items() if k not in drop and not k.startswith("reused.")}}
        for r in found
    ]
    return sorted(kept, key=lambda r: r["tags"]["emplifai.key"])


def read(folder: Path):
    """MLflow's own client over a copy of the database."""
    import mlflow

    copy = folder.parent / f"read-{time.monotonic_ns()}.db"
    shutil.copy(folder / "mlflow.db", copy)
    return mlflow.MlflowClient(f"sqlite:///{copy}")


def rerun(project: Path, stage: str, name: str = "") -> None:
    """A stage ran again: its run.json is another."""
    path = Paths(results=project / "results").record(stage, name)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"started": values["started"] + 100}))


def test_words_of_patients_do_not_leave_the_machine_unasked(project, monkeypatch, capsys):
    """For a server outside, numbers only: no report page, no samples, no traces."""
    from emplifai import tracking

    params, paths = track_setup(project)
    outside = params.model_copy(update={"tracking": params.tracking.model_copy(update={"uri": "https://mlflow.example.org"})})
    assert not track.may_hold_texts(outside) and "no report page, samples or traces" in capsys.readouterr().err
    allowed = outside.model_copy(update={"data": params.data.model_copy(update={"external_processing": "allowed"})})
    assert track.may_hold_texts(allowed) and track.may_hold_texts(params)
    tracking.Tracker(params.tracking, paths, texts=False).send([snapshot.take(params, paths)])
    found = {r["name"]: r for r in runs(project)}
    assert found["generate/base"]["files"] == ["run.json"] and found["report"]["files"] == ["figures", "run.json"]
    assert read(project).search_traces(locations=["1"]) == []


def test_all_of_a_pipeline_is_there_and_a_second_time_adds_nothing(project):
    call(project)
    first = runs(project)
    parents = [r for r in first if r["tags"]["emplifai.kind"] == "pipeline"]
    children = {r["name"]: r for r in first if r["tags"]["emplifai.kind"] == "job"}
    assert len(parents) == 1 and len(children) == JOBS
    assert {r["tags"]["mlflow.parentRunId"] for r in children.values()} == {parents[0]["id"]}
    assert {r["status"] for r in first} == {"FINISHED"}
    assert parents[0]["tags"]["params_sha256"] and parents[0]["tags"]["git_commit"] == "0" * 40
    assert parents[0]["params"]["finetune.rank"] == "16"
    assert parents[0]["metrics"]["bertscore/parrot_is_highest"] == 1 and parents[0]["tags"]["profile"] == "local"
    tuned = children["finetune/tuned"]
    assert tuned["curve"] == 56 and tuned["metrics"]["dev_loss"] == 3.3 and tuned["metrics"]["system/seconds"] == 1.5
    assert tuned["metrics"]["system/tokens_per_second"] == pytest.approx(1000)
    assert tuned["tags"]["packages"] == "numpy 2.0"
    assert tuned["params"]["model.adapter"] == "finetune"
    assert tuned["end"] - tuned["start"] == 1500
    assert sorted(d[::2] for d in tuned["data"]) == [("dev", "dev"), ("train", "train")]
    assert children["report"]["files"] == ["figures", "index.html", "run.json"]
    assert children["generate/base"]["files"] == ["run.json", "samples.json"]
    assert "all there already" in call(project).stderr
    assert runs(project) == first


@pytest.mark.slow
def test_a_deleted_database_comes_back_with_pipelines_whose_results_are_overwritten(project):
    call(project)
    rerun(project, "judge", "proxy")
    call(project)
    before = comparable(runs(project))
    assert len(before) == 2 + JOBS + 1
    (project / "mlflow.db").unlink()
    shutil.rmtree(project / "mlartifacts")
    call(project)
    assert comparable(runs(project)) == before


@pytest.mark.slow
def test_a_rerun_of_judge_adds_one_child_to_a_new_parent_that_links_the_rest(project):
    call(project)
    first = {r["id"] for r in runs(project)}
    rerun(project, "judge", "proxy")
    call(project)
    new = [r for r in runs(project) if r["id"] not in first]
    assert sorted(r["name"] for r in new if r["tags"]["emplifai.kind"] == "job") == ["judge/proxy"]
    parent = next(r for r in new if r["tags"]["emplifai.kind"] == "pipeline")
    links = {v for k, v in parent["tags"].items() if k.startswith("reused.")}
    assert len(links) == JOBS - 1 and links < first
    assert f"runs/{parent['tags']['reused.finetune.tuned']}" in parent["tags"]["mlflow.note.content"]


def test_a_run_half_sent_is_completed(project):
    """Killed between making a run and filling it: the next time goes on there."""
    params, paths = track_setup(project)
    pipeline = snapshot.take(params, paths)
    tracker = connect(params, paths)
    job = next(j for j in pipeline.jobs if j.title == "finetune/tuned")
    parent = tracker._start(pipeline.key, "pipeline", pipeline.name, pipeline.start)
    tracker._start(job.key, "job", job.title, job.start, parent.run_id)
    call(project)
    found = runs(project)
    assert len(found) == 1 + JOBS and {r["status"] for r in found} == {"FINISHED"}
    assert next(r for r in found if r["name"] == "finetune/tuned")["curve"] == 56


def track_setup(project):
    from emplifai import params

    return params.load(project / "params.yaml"), Paths()


def connect(params, paths):
    from emplifai import tracking

    return tracking.Tracker(params.tracking, paths)


def test_judged_replies_are_traces_with_judge_raters_and_reference_side_by_side(project):
    """A trace is there once, at most tracking.traces of them; what is no person is never called HUMAN."""
    change(project, "traces", 20)
    call(project)
    client = read(project)
    found = client.search_traces(locations=["1"], max_results=500)
    assert len(found) == 20
    judge = next(r for r in runs(project) if r["name"] == "judge/proxy")
    assert judge["tags"]["traces"] == "20 sent, 36 left out"  # 8 dialogues, 7 systems
    trace = found[0]
    assert trace.info.trace_metadata["mlflow.sourceRun"] == judge["id"]
    scores = {(a.name, a.source.source_type): a.value for a in trace.info.assessments}
    assert {"fluency", "empathy", "emotion_empathy"} == {n for (n, s) in scores if s == "CODE"} - {"disagreement"}
    assert scores["disagreement", "CODE"] == pytest.approx(abs(trace.data.spans[0].outputs["empathy"] - 3))
    assert scores["reference", "HUMAN"] and [n for n, s in scores if s == "HUMAN"] == ["reference"]
    assert {span.name for span in trace.data.spans[1:]} == {"fluency", "empathy", "emotion_empathy"}
    sources = {a.source.source_id for a in trace.info.assessments}
    assert "proxy (likelihood proxy)" in sources and any(s.startswith("SIMULATED") for s in sources)


def test_new_human_ratings_join_the_traces_that_are_there(project):
    change(project, "traces", 20)
    call(project)
    before = {t.info.trace_id for t in read(project).search_traces(locations=["1"], max_results=500)}
    replies = [json.loads(line) for line in Paths().replies("tuned").read_text().splitlines()]
    rows = [f"mori,{r['dialogue_id']},tuned,empathy,2,{r['text_sha256']}" for r in replies]
    rows[0] = rows[0][:-4] + "beef"  # of other words: set aside
    Path("data/ratings/mori.csv").write_text("rater_id,dialogue_id,model,criterion,score,text_sha256\n" + "\n".join(rows) + "\n")
    rerun(project, "correlate")
    call(project)
    found = read(project).search_traces(locations=["1"], max_results=500)
    people = [a for t in found for a in t.info.assessments if a.source.source_id == "mori"]
    assert len(people) == len(replies) - 1 and {(a.source.source_type, a.value) for a in people} == {("HUMAN", 2.0)}
    assert len({t.info.trace_id for t in found}) == len(found) < 40 and len(before & {t.info.trace_id for t in found}) > 10


def test_adapters_are_logged_models_tied_to_metrics_and_registered_on_request(project):
    call(project)
    client = read(project)
    (model,) = client.search_logged_models(["1"])
    assert (model.name, model.status, model.model_type) == ("tuned", "READY", "lora-adapter")
    assert {(m.key, m.value, m.dataset_name) for m in model.metrics} == {("dev_loss", 3.3, "dev")}
    assert (Path(model.artifact_location.removeprefix("file://")) / "adapter_config.json").read_text()
    assert client.search_registered_models() == []
    for expected in (["emplifai-tuned version 1"], []):
        done = subprocess.run(
            [BIN / "emplifai", "track", "--register"], cwd=project, env=environment(), capture_output=True, text=True
        )
        assert re.findall("registered (.*)", done.stderr) == expected, done.stderr
    assert [v.version for v in read(project).search_model_versions("name = 'emplifai-tuned'")] == [1]


@pytest.mark.slow
def test_eight_at_once_make_one_database(fresh):
    project = fresh
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: call(project, timeout=300), range(8)))
    assert not any("warning" in d.stderr for d in done)
    assert len(runs(project)) == 1 + JOBS


def change(project: Path, key: str, value) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["tracking"][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))


def test_a_dead_server_costs_a_warning_and_seconds_and_loses_nothing(project):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    change(project, "uri", f"http://user:secret@127.0.0.1:{port}")
    started = time.monotonic()
    done = call(project)
    assert time.monotonic() - started < 30
    assert done.stderr.count("warning:") == 1 and "emplifai track" in done.stderr
    assert "Traceback" not in done.stderr and "secret" not in done.stderr
    rerun(project, "judge", "proxy")  # what was not sent is overwritten meanwhile
    change(project, "uri", "sqlite:///mlflow.db")
    assert "2 pipeline run(s)" in call(project).stderr
    assert len(runs(project)) == 2 + JOBS + 1


def test_a_mute_server_costs_seconds(project):
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()
        threading.Thread(target=listen, args=(server, stop), daemon=True).start()
        change(project, "uri", f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        done = call(project)
        stop.set()
    assert time.monotonic() - started < 40
    assert done.stderr.count("warning:") == 1


def listen(server: socket.socket, stop: threading.Event) -> None:
    """Take connections and say nothing."""
    held, server_closed = [], False
    while not stop.is_set() and not server_closed:
        try:
            server.settimeout(0.2)
            held.append(server.accept()[0])
        except TimeoutError:
            continue
        except OSError:
            server_closed = True


@pytest.mark.parametrize(
    ("variables", "header"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "mori", "MLFLOW_TRACKING_PASSWORD": "pa55"}, "Basic bW9yaTpwYTU1"),
        ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "Bearer t0ken"),
    ],
)
def test_a_server_gets_the_password_of_mlflows_own_variables(project, monkeypatch, capsys, variables, header):
    """And a refusal of it is one warning, which does not name it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Guarded() as server:
        change(project, "uri", f"http://127.0.0.1:{server.port}")
        track.run(*track_setup(project))
    said = capsys.readouterr().err
    assert set(server.heard) == {header}
    assert said.count("warning:") == 1 and "401" in said and "pa55" not in said and "t0ken" not in said


class Guarded:
    """A server that writes down each Authorization header and refuses it."""

    def __init__(self):
        heard = self.heard = []

        class Handler(BaseHTTPRequestHandler):
            def refuse(self):
                heard.append(self.headers.get("Authorization"))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = refuse

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def test_a_broken_database_is_one_warning(project):
    (project / "mlflow.db").write_text("not a database at all" * 100)
    done = call(project)
    assert done.stderr.count("warning:") == 1 and "Traceback" not in done.stderr
    assert len(list((project / ".cache/tracking/pipelines").glob("*.json"))) == 1


def test_nothing_there_yet(tmp_path):
    results_folder.project(tmp_path, yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert "nothing in results/ yet" in call(tmp_path).stderr


def test_urls_are_shown_without_passwords():
    assert track.shown("see https://me:pa55@host:5000/x") == "see https://***@host:5000/x"
