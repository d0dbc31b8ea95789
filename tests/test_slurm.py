"""`snakemake --profile slurm all` on a real SLURM of two nodes, through faults."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import BIN, THREADS, change_params, environment, runner, tables
from slurm_cluster import Cluster, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Polls every other second instead of every 20: the only thing that the tests set differently from a user.
SNAKEMAKE = ("snakemake", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2")
LONG = 600  # seconds for what takes a few on an idle machine


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


@pytest.fixture
def on(cluster, project):
    """on("snakemake", ...): a command on the login node."""
    call = runner(project)
    return lambda *command, **options: call(*command, **{**cluster.environment(), **THREADS, **options})


@pytest.fixture
def start(cluster, project):
    """start(): the workflow in the background, in a process group of its own; ended with the test and its jobs."""
    started = []

    def begin() -> subprocess.Popen:
        log = open(project / "snakemake.out", "ab")
        env = environment(**{**cluster.environment(), **THREADS})
        started.append(subprocess.Popen([*SNAKEMAKE, "all"], cwd=project, env=env, stdout=log, stderr=log, process_group=0))
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
    return (project / "snakemake.out").read_text()


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
    """Stop a process as soon as it is there, so that it surely runs while something happens to it."""
    found = wait_for(lambda: process_of(project, *words))
    os.kill(found, signal.SIGSTOP)
    return found


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


def test_whatever_the_cluster_does_the_results_are_the_same(cluster, on, project, start, undisturbed):
    """One run through it all: scancel, a time limit, slurmctld away for 30 s, kill -9 of Snakemake while its job runs, Ctrl-C,
    a process killed as for memory, a node that fails. The same command each time; nothing is computed twice."""
    process = start()
    first = wait_for(lambda: running(cluster, "generate_wildcards_base"))[0]
    assert requested(cluster.show(first)) == ("gres:gpu:1", "8", "16000M", "02:00:00", "all")
    cluster.call("scancel", first)
    late = wait_for(lambda: running(cluster, "finetune_wildcards_tuned"))[0]
    assert requested(cluster.show(late)) == ("gres:gpu:1", "8", "16000M", "04:00:00", "all")
    freeze(project, "finetune")
    cluster.end("slurmctld")
    time.sleep(30)
    cluster.start_controller()
    cluster.call("scontrol", "update", f"JobId={late}", "EndTime=now")
    again = wait_for(lambda: [job for job in running(cluster, "finetune_wildcards_tuned") if job != late])[0]
    assert requested(cluster.show(again)) == ("gres:gpu:1", "8", "32000M", "08:00:00", "all")

    frozen = freeze(project, "generate", "tuned")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    rows = on("emplifai", "status").stdout.splitlines()
    assert any(row.split()[:3] == ["generate", "tuned", "running"] and "SLURM job" in row for row in rows), rows
    process = start()
    wait_for(lambda: len(running(cluster, "generate_wildcards_tuned")) == 2)  # the second waits for the first
    assert "The last Snakemake here was killed: its lock is taken away" in said(project)
    os.kill(frozen, signal.SIGCONT)

    for stage in ("bertscore", "judge"):  # side by side
        freeze(project, stage)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LONG) != 0
    wait_for(lambda: not cluster.jobs())
    assert not list((project / "results").rglob("*.partial"))

    process = start()
    killed = freeze(project, "bertscore")
    lost = freeze(project, "judge")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: "SLURM status is: 'FAILED'" in said(project))
    job = running(cluster, "judge_wildcards_proxy")[0]
    node = cluster.show(job)["NodeList"]
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_for(lambda: not running(cluster, "judge_wildcards_proxy"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(lost, signal.SIGKILL)  # as the node's end does
    cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # SLURM would wait two minutes
    assert process.wait(LONG) == 0, said(project)[-3000:]

    assert tables(project) == undisturbed
    assert asked_twice(project) == []
    assert not [f for f in project.rglob("*.partial") if ".snakemake" not in f.parts]
    for state in ("'CANCELLED'", "'TIMEOUT'", "'FAILED'"):
        assert f"SLURM status is: {state}" in said(project)


def test_the_exact_command_in_shards_then_partial_reruns(cluster, on, start, project, undisturbed):
    """A fresh clone; the other engine; one parameter; one model more and one less: only what is needed, once."""
    original = yaml.safe_load((project / "params.yaml").read_text())
    models = {name: original["models"][name] for name in ("reference", "retrieval", "base")}
    change_params(project, models=models, generate__shards=5, bertscore__shards=2, judge__shards=2)
    before = len(cluster.submitted())
    on(*SNAKEMAKE, "all")
    expected = {"rule_generate_shard": 5, "rule_bertscore_shard": 2, "rule_judge_shard": 2}
    expected |= {f"rule_{stage}": 1 for stage in ("generate", "bertscore", "judge")}
    assert Counter(comment.split("_wildcards")[0] for comment in cluster.submitted()[before:]) == expected
    found = tables(project)
    shared = [name for name in found if name.startswith(("generate/base/", "bertscore/base.jsonl", "judge/proxy/base.jsonl"))]
    assert len(shared) == 5 and {n: found[n] for n in shared} == {n: undisturbed[n] for n in shared}  # by one job, on one machine
    assert asked_twice(project) == []
    record = json.loads((project / "results/generate/base/run.json").read_text())
    assert record["fresh"] == 0 and record["slurm_job_id"] and record["slurm_job_partition"] == "all"
    assert "slurm_job_id" not in json.loads((project / "results/split/run.json").read_text())

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
            ["Invalid partition name specified; name one of yours: --default-resources slurm_partition=NAME", "Here: all, away."],
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
    assert "Traceback" not in done.stderr
    assert len(cluster.submitted()) == before and not (project / "results/validate").exists()


def test_an_unknown_account_is_said(on, tmp_path):
    """Accounts are known where there is a slurmdbd, which this cluster has not: sbatch here says what SLURM says there."""
    fake = tmp_path / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\ncase $* in *--account=nobody*)\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified' >&2\n"
        "exit 1;; esac\n"
    )
    fake.chmod(0o755)
    path = f"{fake.parent}:{BIN}:{os.environ['PATH']}:/usr/sbin"
    done = on(*SNAKEMAKE, "--default-resources", "slurm_account=nobody", "--", "all", ok=False, PATH=path)
    assert "Invalid account or account/partition combination specified; name one of yours (`sacctmgr show user" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_a_node_does_not_see_is_said(cluster, finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished, project, symlinks=True)
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
    before = len(cluster.submitted())
    done = on(*SNAKEMAKE, "all", ok=False)
    assert "someone/model-that-is-not-here: not on this machine" in done.stderr and "emplifai prefetch" in done.stderr
    assert "/nowhere/at-all: no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(cluster.submitted()) == before and not (project / "results/validate").exists()
