"""`snakemake --profile slurm all` on a real SLURM of two nodes, through faults."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import BIN, change_params, environment, make_project, runner
from slurm_cluster import Cluster, missing

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

# Polls every other second instead of every 20: the only thing that the tests set differently from a user.
SNAKEMAKE = ("snakemake", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2")
TABLES = ("*.jsonl", "*.csv")
THREADS = {"OMP_NUM_THREADS": "1"}  # sums of floats depend on the number of threads; a job's own is its cores


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if lacking := missing():
        text = f"a real SLURM needs {', '.join(lacking)} (apt install slurm-wlm munge)"
        assert not os.environ.get("EMPLIFAI_REQUIRE_ALL"), text
        pytest.skip(text)
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model):
    """The tables of a run on one machine, without SLURM."""
    project = make_project(tmp_path_factory.mktemp("undisturbed") / "project", tiny_model)
    runner(project)("snakemake", "--cores", "2", "--quiet", "all", "--", "all", **THREADS)
    return tables(project)


@pytest.fixture
def on(cluster, project):
    """on("snakemake", ...): a command on the login node."""
    call = runner(project)
    return lambda *command, **options: call(*command, **{**cluster.environment(), **THREADS, **options})


@pytest.fixture
def start(cluster, project):
    """start(): the workflow in the background, in a process group of its own; ended with the test."""
    started = []

    def begin(*more: str) -> subprocess.Popen:
        log = open(project / "snakemake.out", "ab")
        env = environment(**{**cluster.environment(), **THREADS})
        started.append(
            subprocess.Popen([*SNAKEMAKE, *more, "all"], cwd=project, env=env, stdout=log, stderr=log, process_group=0)
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tables(project: Path) -> dict[str, str]:
    """Digest of every table of every stage."""
    files = [f for pattern in TABLES for f in (project / "results").rglob(pattern)]
    return {str(f.relative_to(project)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def said(project: Path) -> str:
    return (project / "snakemake.out").read_text()


def wait_for(what, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found


def running(cluster, rule: str) -> list[str]:
    return [job for job, state, comment in cluster.jobs() if state == "RUNNING" and comment == f"rule_{rule}"]


def process_of(project: Path, *words: str) -> int | None:
    """The process of ours in this project whose command line holds the words."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if "emplifai" in line and set(words) <= set(line) and (folder / "cwd").resolve() == project:
                return int(folder.name)
        except OSError:
            continue
    return None


def asked_twice(project: Path) -> list[str]:
    """Keys of the caches of generate, judge and bertscore that were computed more than once."""
    keys = Counter()
    for file in (project / ".cache").rglob("*.jsonl"):
        if file.parts[-2] == "generate" or "judge" in file.parts or "bertscore" in file.parts:
            keys.update((file.parent.name, json.loads(line)["key"]) for line in file.read_text("utf-8").splitlines())
    assert keys
    return [key for key, count in keys.items() if count > 1]


def test_the_exact_command_then_nothing_left_for_either_engine(cluster, on, start, project, undisturbed):
    process, shown = start(), {}
    while process.poll() is None:
        shown |= {comment: cluster.show(job) for job, state, comment in cluster.jobs() if state == "RUNNING"}
        time.sleep(0.3)
    assert process.returncode == 0, said(project)[-3000:]
    assert tables(project) == undisturbed
    models = ("base", "base-3shot", "tuned")
    heavy = {"rule_finetune_wildcards_tuned", "rule_bertscore", "rule_judge_wildcards_proxy"}
    assert set(shown) == heavy | {f"rule_generate_wildcards_{m}" for m in models}
    for job in shown.values():
        assert (job["TresPerNode"], job["NumCPUs"], job["MinMemoryNode"], job["Partition"]) == (
            "gres:gpu:1",
            "8",
            "16000M",
            "all",
        )
    assert shown["rule_finetune_wildcards_tuned"]["TimeLimit"] == "04:00:00"
    records = {f.parent.name: json.loads(f.read_text()) for f in (project / "results/generate").glob("*/run.json")}
    assert {m for m, record in records.items() if "slurm_job_id" in record} == set(models)
    assert "slurm_job_id" not in json.loads((project / "results/split/run.json").read_text())
    assert not [f for f in project.rglob("*.partial") if ".snakemake" not in f.parts]
    assert asked_twice(project) == []

    assert "Nothing to be done" in on("snakemake", "-n", "--cores", "1").stdout
    assert "All done" in on("emplifai", "status").stdout
    on("git", "init", "-q")
    first = cluster.next_job()
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    assert cluster.next_job() == first  # recorded, nothing submitted
    assert json.loads(on("dvc", "status", "--json").stdout) == {}

    change_params(project, judge__seed=7)
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    assert cluster.next_job() - first == 1  # the judge; correlate and report run on the login node
    assert "Nothing to be done" in on("snakemake", "-n", "--cores", "1").stdout


def test_what_a_cluster_does_in_between(cluster, project, start, undisturbed):
    """Time limit, scancel, a controller away, a killed process, a node that fails: one run, the same tables."""
    process = start()
    first = wait_for(lambda: [j for m in ("base", "base-3shot") for j in running(cluster, f"generate_wildcards_{m}")])[0]
    cluster.call("scancel", first)
    late = wait_for(lambda: running(cluster, "finetune_wildcards_tuned"))[0]
    frozen = wait_for(lambda: process_of(project, "finetune"))
    os.kill(frozen, signal.SIGSTOP)
    cluster.call("scontrol", "update", f"JobId={late}", "TimeLimit=1")
    cluster.end("slurmctld")
    time.sleep(30)
    cluster.start_controller()

    wait_for(lambda: "TIMEOUT" in said(project), 150)
    killed = wait_for(lambda: process_of(project, "generate", "tuned"), 200)
    job = running(cluster, "generate_wildcards_tuned")[0]
    os.kill(killed, signal.SIGKILL)
    again = wait_for(lambda: [j for j in running(cluster, "generate_wildcards_tuned") if j != job])[0]
    assert cluster.show(again)["MinMemoryNode"] == "32000M"

    judging = wait_for(lambda: running(cluster, "judge_wildcards_proxy"))[0]
    node = cluster.show(judging)["NodeList"]
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_for(lambda: not running(cluster, "judge_wildcards_proxy"))
    cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert process.wait(300) == 0, said(project)[-3000:]
    assert tables(project) == undisturbed
    assert asked_twice(project) == []
    for state in ("'CANCELLED'", "'TIMEOUT'", "'FAILED'"):
        assert f"SLURM status is: {state}" in said(project)


def test_snakemake_killed_while_jobs_run_then_ctrl_c(cluster, on, project, start, undisturbed):
    """The same command goes on each time; a job that still runs is waited for, and nothing is computed twice."""
    process = start()
    wait_for(lambda: process_of(project, "finetune"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = running(cluster, "finetune_wildcards_tuned")
    assert left
    assert "running" in next(line for line in on("emplifai", "status").stdout.splitlines() if line.startswith("finetune"))
    on("snakemake", "--unlock")  # as Snakemake says when it finds the lock of a process that was killed
    process = start()
    wait_for(lambda: process_of(project, "judge") or process.poll() is not None, 200)
    assert process.poll() is None, said(project)[-3000:]
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    wait_for(lambda: not cluster.jobs())
    on(*SNAKEMAKE, "all")
    assert tables(project) == undisturbed
    assert asked_twice(project) == []
    assert not [f for f in project.rglob("*.partial") if ".snakemake" not in f.parts]


@pytest.mark.parametrize(
    "options,message",
    [
        (["--default-resources", "slurm_partition=nowhere", "mem_mb=500"], "invalid partition specified: nowhere"),
        (["--set-resources", "finetune:gres=gpu:h100:1"], "Requested node configuration is not available"),
    ],
)
def test_what_the_cluster_refuses_is_said(on, options, message):
    done = on(*SNAKEMAKE, "--retries", "0", *options, "--", "all", ok=False)
    assert message.lower() in (done.stdout + done.stderr).lower()
    assert "Traceback" not in done.stderr


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
    assert "Traceback" not in done.stderr


def test_without_munge(on, cluster, tmp_path):
    """A machine of the cluster on which munged does not run."""
    other = tmp_path / "slurm"
    other.mkdir()
    text = (cluster.folder / "slurm.conf").read_text().replace("AuthInfo=socket=", "AuthInfo=socket=/nowhere")
    (other / "slurm.conf").write_text(text)
    shutil.copy(cluster.folder / "gres.conf", other)
    done = on(*SNAKEMAKE, "all", ok=False, SLURM_CONF=str(other / "slurm.conf"))
    assert "SLURM does not answer: munged does not run on this machine" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_is_named_before_the_first_job(on, cluster, project):
    change_params(project, models__base__model="someone/model-that-is-not-here", bertscore__model="/nowhere/at-all")
    first = cluster.next_job()
    done = on(*SNAKEMAKE, "all", ok=False)
    assert "someone/model-that-is-not-here: not on this machine" in done.stderr and "emplifai prefetch" in done.stderr
    assert "/nowhere/at-all: no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert cluster.next_job() == first and not (project / "results/validate").exists()
