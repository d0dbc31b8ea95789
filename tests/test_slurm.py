"""`snakemake --profile slurm all` on a real SLURM of two nodes, through faults."""

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import change_params, environment, make_project, runner
from slurm_cluster import Cluster, missing

pytestmark = pytest.mark.slow

# Polls every other second instead of every 20: the only thing that the tests set differently from a user.
SNAKEMAKE = ("snakemake", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2")
TABLES = ("*.jsonl", "*.csv")


@pytest.fixture(scope="session")
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


def tables(project: Path) -> dict[str, str]:
    """Digest of every table of every stage."""
    files = [f for pattern in TABLES for f in (project / "results").rglob(pattern)]
    return {str(f.relative_to(project)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, tiny_model):
    """The tables of a run on one machine."""
    project = make_project(tmp_path_factory.mktemp("undisturbed") / "project", tiny_model)
    runner(project)("snakemake", "--cores", "8", "--quiet", "all", "--", "all", OMP_NUM_THREADS="1")
    return tables(project)


@pytest.fixture
def on(cluster, project):
    """on("snakemake", ...): a command on the login node."""
    call = runner(project)
    return lambda *command, **options: call(*command, **{**cluster.environment(), "OMP_NUM_THREADS": "1", **options})


def start(cluster, project: Path, *command: str) -> subprocess.Popen:
    log = open(project / "snakemake.out", "ab")
    env = environment(**{**cluster.environment(), "OMP_NUM_THREADS": "1"})
    return subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log, start_new_session=True)


def wait_for(what, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found


def running(cluster, rule: str) -> list[str]:
    return [job for job, state, comment in cluster.jobs() if state == "RUNNING" and rule in comment]


def test_whole_workflow_and_nothing_left_to_do(cluster, on, project, undisturbed):
    on(*SNAKEMAKE, "all")
    assert tables(project) == undisturbed
    records = {f.parent.name: json.loads(f.read_text()) for f in (project / "results/generate").glob("*/run.json")}
    assert all(record["slurm_job_id"] for record in records.values())
    assert len({record["slurm_job_id"] for record in records.values()}) == len(records)
    assert "slurm_job_id" not in json.loads((project / "results/split/run.json").read_text())
    assert "Nothing to be done" in on("snakemake", "-n", "--cores", "1").stdout
    on("git", "init", "-q")
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    assert json.loads(on("dvc", "status", "--json").stdout) == {}
    assert not list(project.rglob("*.partial"))


def test_a_scancelled_job_is_tried_again(cluster, on, project, undisturbed):
    process = start(cluster, project, *SNAKEMAKE, "all")
    job = wait_for(lambda: running(cluster, "finetune"))[0]
    cluster.call("scancel", job)
    assert process.wait(400) == 0, (project / "snakemake.out").read_text()[-3000:]
    assert tables(project) == undisturbed


def test_snakemake_killed_and_started_again_while_its_jobs_run(cluster, on, project, undisturbed):
    process = start(cluster, project, *SNAKEMAKE, "all")
    wait_for(lambda: running(cluster, "finetune"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    on(*SNAKEMAKE, "all")
    assert tables(project) == undisturbed


def test_ctrl_c_cancels_the_jobs_and_the_same_command_goes_on(cluster, on, project, undisturbed):
    process = start(cluster, project, *SNAKEMAKE, "all")
    wait_for(lambda: running(cluster, "finetune"))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    wait_for(lambda: not cluster.jobs())
    on(*SNAKEMAKE, "all")
    assert tables(project) == undisturbed


def test_controller_away_for_a_while(cluster, on, project, undisturbed):
    process = start(cluster, project, *SNAKEMAKE, "all")
    wait_for(lambda: running(cluster, "generate"), 200)
    cluster.end("slurmctld")
    time.sleep(30)
    cluster.start_controller()
    assert process.wait(500) == 0, (project / "snakemake.out").read_text()[-3000:]
    assert tables(project) == undisturbed


def test_dvc_repro_submits_only_what_changed(cluster, on, project):
    on("git", "init", "-q")
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    first = int(cluster.call("scontrol", "show", "config").stdout.split("NEXT_JOB_ID")[1].split("=")[1].split()[0])
    change_params(project, judge__seed=7)
    on("dvc", "repro", SNAKEMAKE_PROFILE="slurm")
    last = int(cluster.call("scontrol", "show", "config").stdout.split("NEXT_JOB_ID")[1].split("=")[1].split()[0])
    assert last - first == 1  # the judge's job; correlate and report run on the login node
    assert "Nothing to be done" in on("snakemake", "-n", "--cores", "1").stdout


@pytest.mark.parametrize(
    "options,message",
    [
        (["--default-resources", "slurm_partition=nowhere", "mem_mb=500"], "invalid partition specified: nowhere"),
        (["--set-resources", "finetune:gres=gpu:h100:1"], "Requested node configuration is not available"),
    ],
)
def test_what_the_cluster_refuses_is_said(cluster, on, options, message):
    done = on(*SNAKEMAKE, "--retries", "0", *options, "--", "all", ok=False)
    assert message.lower() in (done.stdout + done.stderr).lower()


def test_without_sbatch(on):
    done = on(*SNAKEMAKE, "all", ok=False, PATH="/usr/bin/nothing-here")
    assert "sbatch" in done.stdout + done.stderr
