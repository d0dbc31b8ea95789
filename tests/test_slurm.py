"""`snakemake --profile slurm all` on a real SLURM of two nodes, through faults."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from conftest import BIN, ROOT, THREADS, change_params, environment, runner, tables
from emplifai import locks
from slurm_cluster import Cluster, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SNAKEMAKE = ("snakemake", "--profile", "slurm")
LONG = 600  # seconds for what takes a few on an idle machine


@contextlib.contextmanager
def started(folder: Path, accounting: bool) -> Iterator[Cluster]:
    if lacking := missing(accounting):
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server-core" if accounting else "")
        text = f"a real SLURM{' with accounting' if accounting else ''} needs {', '.join(lacking)} (apt install {packages})"
        assert not os.environ.get("EMPLIFAI_REQUIRE_ALL"), text
        pytest.skip(text)
    cluster = Cluster(folder, accounting=accounting)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with started(tmp_path_factory.mktemp("slurm") / "cluster", accounting=False) as one:
        yield one


@pytest.fixture(scope="module")
def accounted(tmp_path_factory):
    """A cluster with accounting: slurmdbd, one account, jobs of others are refused."""
    with started(tmp_path_factory.mktemp("accounted") / "cluster", accounting=True) as one:
        yield one


@pytest.fixture
def project(project):
    return poll_often(project)


def poll_often(project: Path) -> Path:
    """Every other second instead of every 20: the only thing that the tests set differently from a user."""
    profile = project / "workflow/profiles/slurm/profile.yaml"
    text = profile.read_text()
    profile.write_text(text.replace("before-status-checks: 20 ", "before-status-checks: 2 "))
    assert profile.read_text() != text
    return project


def login(cluster: Cluster, project: Path):
    """on("snakemake", ...): a command on the login node."""
    call = runner(project)
    return lambda *command, **options: call(*command, **{**cluster.environment(), **THREADS, **options})


@pytest.fixture
def on(cluster, project):
    return login(cluster, project)


@pytest.fixture
def start(cluster, project):
    """start("dvc", "repro"): a command in the background, in a process group of its own; ended with the test and its jobs."""
    started = []

    def begin(*command: str, **more: str) -> subprocess.Popen:
        log = open(project / "said", "ab")
        env = environment(**{**cluster.environment(), **THREADS, **more})
        started.append(subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log, process_group=0))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for left in set(processes_in(project)) - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def processes_in(project: Path) -> Iterator[int]:
    """The processes that work in this project's folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cwd").resolve() == project:
                yield int(folder.name)


def said(project: Path) -> str:
    return (project / "said").read_text()


def wait_for(what, seconds: float = LONG):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found


def running(cluster, rule: str) -> list[str]:
    return [job for job, state, comment in cluster.jobs() if state == "RUNNING" and comment == f"rule_{rule}"]


def process_of(project: Path, *words: str) -> int | None:
    """The process of ours in this project whose command line holds the words, and that nobody has stopped."""
    for number in processes_in(project):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if "emplifai" in line and set(words) <= set(line):
                return number
    return None


def freeze(project: Path, *words: str) -> int:
    """Stop a process as soon as it holds its lock, so that it surely runs while something happens to it."""
    found = wait_for(lambda: (number := process_of(project, *words)) in holders(project) and number)
    os.kill(found, signal.SIGSTOP)
    return found


def holders(project: Path) -> list[int]:
    """The processes that hold a lock of this project."""
    held = map(locks.holder, (project / ".cache/locks").glob("*.lock"))
    return [one["pid"] for one in held if one]


def asked_twice(project: Path) -> list[str]:
    """Keys of the caches of generate, judge and bertscore that were computed more than once."""
    keys = Counter()
    for file in (project / ".cache").rglob("*.jsonl"):
        if file.parts[-2] == "generate" or "judge" in file.parts or "bertscore" in file.parts:
            keys.update((file.parent.name, json.loads(line)["key"]) for line in file.read_text("utf-8").splitlines())
    assert keys
    return [key for key, count in keys.items() if count > 1]


def requested(job: dict[str, str]) -> tuple[str, ...]:
    return tuple(job[key] for key in ("TresPerNode", "NumCPUs", "MinMemoryNode", "TimeLimit", "Partition"))


def of_site(project: Path) -> None:
    """Partition and account as README says, for the account `lab` and a partition that is named as a word of Python."""
    shutil.copytree(ROOT / "presets/slurm-site", project / "profiles")
    file = project / "profiles/default/profile.yaml"
    file.write_text(file.read_text("utf-8").replace("slurm_partition: gpu", "slurm_partition: \"'all'\""), "utf-8")


def test_whatever_the_cluster_does_the_results_are_the_same(cluster, on, project, start, undisturbed):
    """One run through it all: a time limit, slurmctld away for 30 s, preemption, scancel, kill -9 of DVC and of Snakemake while
    their jobs run, Ctrl-C, a process killed as for memory, a node that fails. The same command each time; nothing is done twice.
    """
    on("git", "init", "-q")
    of_site(project)
    repro = partial(start, "dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    process = repro()
    late = wait_for(lambda: running(cluster, "finetune_wildcards_tuned"))[0]
    assert requested(cluster.show(late)) == ("gres:gpu:1", "8", "16000M", "04:00:00", "all")
    assert cluster.show(late)["Account"] == "lab"
    freeze(project, "finetune")
    cluster.end("slurmctld")
    time.sleep(30)
    cluster.start_controller()
    cluster.call("scontrol", "update", f"JobId={late}", "EndTime=now")
    again = wait_for(lambda: [job for job in running(cluster, "finetune_wildcards_tuned") if job != late])[0]
    assert requested(cluster.show(again)) == ("gres:gpu:1", "8", "32000M", "08:00:00", "all")
    node = cluster.show(again)["NodeList"]
    cluster.call("sbatch", "--partition=urgent", f"--nodelist={node}", "--cpus-per-task=16", "--output=/dev/null", "--wrap=true")
    wait_for(lambda: cluster.show(again)["JobState"] == "PREEMPTED")

    first = wait_for(lambda: running(cluster, "generate_wildcards_base"))[0]
    assert requested(cluster.show(first)) == ("gres:gpu:1", "8", "16000M", "02:00:00", "all")
    cluster.call("scancel", first)
    frozen = freeze(project, "generate", "tuned")
    wait_for(lambda: "SLURM status is: 'CANCELLED'" in said(project))
    process.kill()  # DVC alone: Snakemake runs on
    process.wait()
    assert "Directory cannot be locked" in on("dvc", "repro", ok=False, SNAKEMAKE_PROFILE="slurm").stderr
    os.killpg(process.pid, signal.SIGKILL)
    rows = [row for row in on("emplifai", "status").stdout.splitlines() if row.split()[:3] == ["generate", "tuned", "running"]]
    assert len(rows) == 1 and re.search(r"since \d\d:\d\d, SLURM job \d+ on \S+, GPU [01], \d\.\d GB$", rows[0]), rows
    process = repro()
    wait_for(lambda: len(running(cluster, "generate_wildcards_tuned")) == 2)  # the second waits for the first
    assert "The last Snakemake here was killed: its lock is taken away" in said(project)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process = start(*SNAKEMAKE, "all")
    wait_for(lambda: len(running(cluster, "generate_wildcards_tuned")) == 3)
    os.kill(frozen, signal.SIGCONT)

    for stage in ("bertscore", "judge"):  # side by side
        freeze(project, stage)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LONG) != 0
    wait_for(lambda: not cluster.jobs())
    assert not list((project / "results").rglob("*.partial"))

    process = start(*SNAKEMAKE, "all")
    killed = freeze(project, "bertscore")
    lost = freeze(project, "judge")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: "SLURM status is: 'FAILED'" in said(project))
    job = running(cluster, "judge_wildcards_proxy")[0]
    node = cluster.show(job)["NodeList"]
    cluster.end(node, signal.SIGKILL)
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_for(lambda: not running(cluster, "judge_wildcards_proxy"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(lost, signal.SIGKILL)  # as the node's end does
    for waiting in [number for number, state, _ in cluster.jobs() if state == "PENDING"]:
        cluster.call("scontrol", "update", f"JobId={waiting}", "StartTime=now")  # SLURM would wait two minutes
    wait_for(lambda: running(cluster, "judge_wildcards_proxy") == [job])
    shown = cluster.show(job)
    assert shown["NodeList"] != node and shown["Account"] == "lab"
    cluster.start_node(node)
    assert process.wait(LONG) == 0, said(project)[-3000:]

    assert tables(project) == undisturbed
    assert asked_twice(project) == []
    assert not [f for f in project.rglob("*.partial") if ".snakemake" not in f.parts]
    for state in ("'CANCELLED'", "'TIMEOUT'", "'FAILED'"):
        assert f"SLURM status is: {state}" in said(project)


def assert_accounted(project: Path, job: str) -> None:
    """What slurmdbd kept of the job stands in its run in MLflow, beside what the job measured of itself."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = {run.info.run_name: run.data for run in client.search_runs(["1"])}
    tags, metrics = runs["generate/base"].tags, runs["generate/base"].metrics
    assert tags["slurm_job_id"] == job and tags["slurm_state"] == "COMPLETED" and tags["slurm_job_nodelist"] in ("n1", "n2")
    assert 0 < metrics["system/seconds"] < metrics["system/slurm_elapsed_seconds"] < LONG
    assert 1e8 < metrics["system/slurm_max_rss_bytes"] < 64e9 and metrics["system/peak_memory_bytes"] > 1e8
    assert "slurm_state" not in runs["split"].tags


def test_the_exact_command_in_shards_then_partial_reruns(accounted, project, undisturbed):
    """A fresh clone; the other engine; one parameter; one model more and one less: only what is needed, once."""
    cluster, on = accounted, login(accounted, project)
    original = yaml.safe_load((project / "params.yaml").read_text())
    models = {name: original["models"][name] for name in ("reference", "retrieval", "base")}
    change_params(project, models=models, generate__shards=5, bertscore__shards=5, judge__shards=5)
    before = len(cluster.submitted())
    on(*SNAKEMAKE, "all")
    expected = {"rule_generate_shard": 5, "rule_bertscore_shard": 5, "rule_judge_shard": 5}
    expected |= {f"rule_{stage}": 1 for stage in ("generate", "bertscore", "judge")}
    assert Counter(comment.split("_wildcards")[0] for comment in cluster.submitted()[before:]) == expected
    found = tables(project)
    shared = [name for name in found if name.startswith(("generate/base/", "bertscore/base.jsonl", "judge/proxy/base.jsonl"))]
    assert len(shared) == 5 and {n: found[n] for n in shared} == {n: undisturbed[n] for n in shared}  # by one job, on one machine
    assert asked_twice(project) == []
    record = json.loads((project / "results/generate/base/run.json").read_text())
    assert record["fresh"] == 0 and record["slurm_job_id"] and record["slurm_job_partition"] == "all"
    assert "slurm_job_id" not in json.loads((project / "results/split/run.json").read_text())
    assert_accounted(project, record["slurm_job_id"])
    for part, hours in {"generate/base": "02", "bertscore": "01", "judge/proxy": "02"}.items():
        job = json.loads((project / f"results/{part}/run.json").read_text())["slurm_job_id"]
        assert requested(cluster.show(job)) == ("gres:gpu:1", "8", "16000M", f"{hours}:00:00", "all")

    assert "Nothing to be done" in on("snakemake", "-n", "--cores", "1").stdout
    assert "All done" in on("emplifai", "status").stdout
    on("git", "init", "-q")
    before = len(cluster.submitted())
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    assert cluster.submitted()[before:] == []  # recorded, nothing submitted
    assert json.loads(on("dvc", "status", "--json").stdout) == {}

    change_params(project, judge__seed=7, judge__shards=1)
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    assert cluster.submitted()[before:] == ["rule_judge_wildcards_proxy"]  # correlate and report run on the login node
    assert "Nothing to be done" in on("snakemake", "-n", "--cores", "1").stdout

    del models["retrieval"]
    models |= {name: original["models"][name] for name in ("parrot", "tuned")}
    change_params(project, models=models, finetune__gpus=2, generate__shards=1, bertscore__shards=1)
    before = len(cluster.submitted())
    on(*SNAKEMAKE, "all")
    expected = ["finetune_wildcards_tuned", "generate_wildcards_base", "generate_wildcards_tuned", "bertscore"]
    assert sorted(cluster.submitted()[before:]) == sorted(f"rule_{rule}" for rule in [*expected, "judge_wildcards_proxy"])
    assert not list((project / "results").rglob("retrieval*"))
    now = tables(project)
    assert {n: now[n] for n in now if n.startswith("generate/base")} == {n: found[n] for n in found if "generate/base" in n}
    record = json.loads((project / "results/finetune/tuned/run.json").read_text())
    assert record["processes"] == 2 and record["slurm_step_gpus"] == "0,1"
    before = len(cluster.submitted())
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    assert cluster.submitted()[before:] == [] and json.loads(on("dvc", "status", "--json").stdout) == {}


@pytest.mark.parametrize(
    "options,messages",
    [
        (
            ["--default-resources", "slurm_partition=nowhere", "mem_mb=500"],
            [
                "Invalid partition name specified; name one of yours in profiles/default/profile.yaml",
                "Here: all, away, urgent.",
            ],
        ),
        (
            ["--set-resources", "finetune:gres=gpu:h100:1"],
            [
                "finetune: SLURM refuses such a job (sbatch --gres=gpu:h100:1",
                "Requested node configuration is not available",
                "gpu:2",
            ],
        ),
        (
            ["--set-resources", "judge:gres=tpu:1"],
            ["judge: SLURM refuses", "Invalid generic resource", "ask for what nodes have"],
        ),
    ],
)
def test_what_the_cluster_would_refuse_is_said_before_the_first_job(cluster, on, project, options, messages):
    before = len(cluster.submitted())
    done = on(*SNAKEMAKE, *options, "--", "all", ok=False)
    assert [m for m in messages if m not in done.stderr] == [], done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(cluster.submitted()) == before and not (project / "results/validate").exists()


def test_an_unknown_account_is_said(accounted, project):
    done = login(accounted, project)(*SNAKEMAKE, "--default-resources", "slurm_account=nobody", "--", "all", ok=False)
    assert "finetune: SLURM refuses such a job (sbatch --account=nobody" in done.stderr
    assert "Invalid account or account/partition combination specified; name one of yours (`sacctmgr show user" in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (project / "results/validate").exists()


def test_a_folder_that_a_node_does_not_see_is_said(cluster, finished, tmp_path):
    project = tmp_path / "project"
    poll_often(shutil.copytree(finished, project, symlinks=True))
    cluster.start_away(hidden=project)
    command = (*SNAKEMAKE, "--retries", "0", "--set-resources", "bertscore:slurm_partition=away", "--forcerun", "bertscore")
    call = runner(project)
    done = call(*command, "--", "results/bertscore/metrics.json", ok=False, **{**cluster.environment(), **THREADS})
    assert f"left no log: does its node (n3) see {project}?" in done.stderr, done.stderr
    assert "on a file system that all nodes share" in done.stderr


def test_without_sbatch(on, tmp_path):
    """A laptop: all programs but SLURM's."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in ("sh", "bash", "which", "env", "git", "tee", "uname"):
            if (source := Path(folder, program)).exists() and not (bin / program).exists():
                (bin / program).symlink_to(source)
    done = on(*SNAKEMAKE, "all", ok=False, PATH=f"{BIN}:{bin}")
    assert "sbatch: not found; type this on the cluster's login node" in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_without_munge(on, cluster, tmp_path):
    """A machine of the cluster on which munged does not run."""
    other = tmp_path / "slurm"
    other.mkdir()
    text = (cluster.folder / "slurm.conf").read_text().replace("AuthInfo=socket=", "AuthInfo=socket=/nowhere")
    (other / "slurm.conf").write_text(text)
    shutil.copy(cluster.folder / "gres.conf", other)
    done = on(*SNAKEMAKE, "all", ok=False, SLURM_CONF=str(other / "slurm.conf"))
    assert "SLURM does not answer: munged does not run on this machine" in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_missing_model_is_named_before_the_first_job(on, cluster, project):
    change_params(project, models__base__model="someone/model-that-is-not-here", bertscore__model="/nowhere/at-all")
    before = len(cluster.submitted())
    done = on(*SNAKEMAKE, "all", ok=False)
    assert "someone/model-that-is-not-here: not on this machine" in done.stderr and "emplifai prefetch" in done.stderr
    assert "/nowhere/at-all: no such folder" in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(cluster.submitted()) == before and not (project / "results/validate").exists()
