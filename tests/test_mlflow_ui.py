"""MLflow's own pages in a real browser: what `emplifai track` sent can be found, opened and read there."""

import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request

import pytest
import yaml

import browser as chromium
import results_folder
from browser import wait
from conftest import BIN, ROOT, environment
from emplifai.paths import Paths

pytestmark = pytest.mark.slow
#: What MLflow shows on the first visit only, over its pages.
SEEN = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.detectIssues.guidanceShown_v1": "true",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Fabricated results with an LLM judge beside the proxy, two people's ratings of the tuned model, and a job that failed."""
    folder, before = tmp_path_factory.mktemp("ui"), os.getcwd()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["judges"]["llm"] = {"backend": "openai", "model": "judge-x", "base_url": "http://127.0.0.1:9/v1"}
    values["tracking"]["traces"] = 20
    params = results_folder.project(folder, values)
    os.chdir(folder)
    try:
        paths = Paths()
        results_folder.write(params, paths, emotions=2)
        rows = [
            f"{who},{r['dialogue_id']},tuned,empathy,{score},{r['text_sha256']}"
            for r in map(json.loads, paths.replies("tuned").read_text().splitlines())
            for who, score in (("mori", 2), ("ito", 1))
        ]
        header = "rater_id,dialogue_id,model,criterion,score,text_sha256"
        (folder / "data/ratings/people.csv").write_text("\n".join([header, *rows]) + "\n")
        shutil.rmtree(paths.replies("parrot").parent)
        paths.log("generate", "parrot").parent.mkdir(parents=True)
        paths.log("generate", "parrot").write_text("generate parrot: 3/8\nerror: parrot: the server went away\n")
        done = subprocess.run([BIN / "emplifai", "track"], env=environment(), capture_output=True, text=True, timeout=300)
        assert "1 pipeline run(s)" in done.stderr, done.stderr
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def address(project):
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    server = subprocess.Popen([BIN / "emplifai", "ui"], cwd=project, env=environment(), **options)
    try:
        url = server.stderr.readline().split()[2]
        assert url.startswith("http://127.0.0.1:") and url.endswith("/#/experiments/1/runs")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        url = url.split("/#")[0]
        wait(lambda: urllib.request.urlopen(f"{url}/health", timeout=5), "the server", 180)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


@pytest.fixture(scope="module")
def runs(address) -> dict[str, str]:
    """Run ids by name."""
    found = post(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"], "max_results": 100})["runs"]
    return {run["info"]["run_name"]: run["info"]["run_id"] for run in found}


def post(url: str, body: dict) -> dict:
    ask = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(ask, timeout=60))


@pytest.fixture(scope="module")
def pages(address):
    """open(part of the address after `#/experiments/1/`): the browser on that page, made afresh."""
    driver = chromium.start()
    chromium.resize(driver, 1800, 1000)
    driver.get(address)
    driver.execute_script("Object.entries(arguments[0]).forEach(([k, v]) => localStorage.setItem(k, v))", SEEN)

    def show(where: str):
        driver.get("about:blank")
        driver.get(f"{address}/#/experiments/1/{where}")
        return driver

    yield show
    driver.quit()


def text(driver) -> str:
    return driver.find_element("css selector", "body").text


def button(driver, name: str):
    return next(b for b in driver.find_elements("css selector", "button, label") if b.text.split("\n")[0].strip() == name)


def test_the_list_shows_the_pipeline_and_under_it_its_jobs(pages, runs):
    page = pages("runs")
    wait(lambda: f"{len(runs)} matching runs" in text(page), "the list of runs")
    assert "finetune/tuned" not in text(page)  # folded under their parent
    wait(lambda: page.find_element("css selector", ".ag-row [data-component-id*=runnamecell]"), "the parent").click()
    wait(lambda: {"finetune/tuned", "judge/llm", "generate/base"} <= set(text(page).splitlines()), "the children")


def test_a_run_shows_its_parent_its_data_and_its_code(pages, runs):
    page = pages(f"runs/{runs['finetune/tuned']}")
    wait(lambda: "Datasets" in text(page) and "Parent run" in text(page), "the run")
    seen = text(page)
    assert "train (" in seen and "Train" in seen and "000000" in seen  # the data set with its context, the commit
    assert "numpy 2.0" in seen


def test_loss_rate_and_memory_are_curves(pages, runs):
    page = pages(f"runs/{runs['finetune/tuned']}/model-metrics")
    wait(lambda: "finetune/tuned (training/loss)" in text(page), "the chart of the loss")
    lines = "return [...document.querySelectorAll('.js-line')].map(l => l.getAttribute('d').split(/[LHVC]/).length)"
    wait(lambda: max(page.execute_script(lines)) > 15, "the lines")  # plotly leaves out points on a straight line
    page = pages(f"runs/{runs['finetune/tuned']}/system-metrics")
    wait(lambda: "tokens_per_second" in text(page) and "memory_megabytes" in text(page), "the system metrics")


def test_a_failed_job_is_red_and_holds_its_log(pages, runs, address):
    page = pages(f"runs/{runs['generate/parrot']}")
    wait(lambda: "Failed" in text(page), "the failed run")
    assert "error: parrot: the server went away" in text(page)
    run = json.load(
        urllib.request.urlopen(f"{address}/api/2.0/mlflow/artifacts/list?run_id={runs['generate/parrot']}", timeout=60)
    )
    assert [f["path"] for f in run["files"]] == ["log.txt"]


def test_a_trace_shows_judge_people_and_reference_side_by_side(pages, runs, address):
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "1"}}
    found = post(f"{address}/api/3.0/mlflow/traces/search", {"locations": [place], "max_results": 100})["traces"]
    of_llm = [t for t in found if t["tags"]["judge"] == "llm"]
    gaps = [gap(t) for t in of_llm]
    assert gaps[0] == max(gaps) and len(of_llm) == 20  # the newest, which MLflow shows first, is the widest
    page = pages(f"runs/{runs['judge/llm']}/traces?selectedEvaluationId={of_llm[0]['trace_id']}")
    wait(lambda: button(page, "Assess"), "the trace").click()
    wait(lambda: "Feedback (6)" in text(page), "the assessments")
    seen = text(page)
    score = next(a["feedback"]["value"] for a in of_llm[0]["assessments"] if a["source"]["source_id"].startswith("llm:"))
    assert f"{score:g}"[:4] in seen and "the data's own reply" in seen and "1.50s" in seen and "1,260 tokens" in seen
    criterion = seen[seen.index("Feedback (6)") :].split("empathy\n")[1].split("emotion")[0].split()
    assert criterion[:2] == ["1", "2"] and float(criterion[2]) > 2  # two people, then the judge


def gap(trace: dict) -> float:
    return next((a["feedback"]["value"] for a in trace["assessments"] if a["assessment_name"] == "disagreement"), -1)


def test_a_question_to_an_llm_judge_holds_its_prompt_and_the_time_of_its_answer(address):
    import mlflow

    client = mlflow.MlflowClient(address)
    trace = next(t for t in client.search_traces(locations=["1"], max_results=100) if t.info.tags["judge"] == "llm")
    span = trace.data.spans[1]
    assert span.inputs["messages"][-1]["role"] == "user" and span.outputs["rationale"] == "<b>温かい返事です。</b>"
    assert span.attributes["latency"] == "measured" and span.end_time_ns - span.start_time_ns == 1_500_000_000
    sources = {(a.source.source_type, a.source.source_id) for a in trace.info.assessments}
    assert ("LLM_JUDGE", "llm: judge-x, ja-v1") in sources
