"""`emplifai status`: what it says at each point of a run."""

import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from conftest import change_params
from emplifai import live, locks, progress, status, usage
from emplifai.paths import Paths


def rows(text: str) -> dict[tuple[str, str], str]:
    """{(stage, name): state and note} of the table."""
    found = {}
    for line in text.splitlines()[1:]:
        if line.strip() and len(line.split()) >= 3:
            stage, name, *rest = line.split()
            found[stage, name] = " ".join(rest)
    return found


def test_before_a_run_all_waits_for_a_reason(run):
    begun = time.monotonic()
    done = run("emplifai", "status")
    assert time.monotonic() - begun < 15  # about 2 s on an idle machine
    shown = rows(done.stdout)
    assert shown["validate", "-"].startswith("waiting Missing output files")
    assert shown["generate", "base"].startswith("waiting") and shown["judge", "proxy"].startswith("waiting")
    assert "A run would do 14 of 14 parts" in done.stdout


def test_done_failed_running_and_why(project, run):
    run("snakemake", "--cores", "1", "--quiet", "all", "--", "split")
    change_params(project, generate__timeout=7)
    (project / "logs/finetune").mkdir(parents=True)
    (project / "logs/finetune/tuned.log").write_text("loading\nerror: finetune: out of memory; raise finetune.accumulation\n")
    (project / "logs/generate").mkdir()
    (project / "logs/generate/parrot.log").write_text("stopped; the same command goes on from here\n")
    lock = locks.file(Paths(cache=project / ".cache"), "generate", "base")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(json.dumps({"host": "n7", "pid": 4, "job": "81", "since": time.time()}))
        held.flush()
        shown = rows(run("emplifai", "status").stdout)
    assert shown["validate", "-"].startswith("done since") and shown["split", "-"].startswith("done")
    assert shown["finetune", "tuned"] == (
        "failed error: finetune: out of memory; raise finetune.accumulation (logs/finetune/tuned.log)"
    )
    assert (
        shown["generate", "parrot"].startswith("stopped stopped; the same command")
        and "logs/generate/parrot.log" in shown["generate", "parrot"]
    )
    assert shown["generate", "base"].startswith("running since") and shown["generate", "base"].endswith("SLURM job 81 on n7")
    assert shown["generate", "tuned"].startswith("waiting")
    change_params(project, split__seed=7)
    shown = rows(run("emplifai", "status").stdout)
    assert shown["validate", "-"].startswith("done")
    assert shown["split", "-"].startswith("waiting Params have changed")


def test_jobs_of_slurm_are_read_as_the_plugin_names_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        f"7|RUNNING|rule_finetune_wildcards_tuned|2026-01-02T03:04:05|2026-01-02T03:00:00|None|n1|{tmp_path}",
        f"8|PENDING|rule_generate_wildcards_base-3shot|N/A|2026-01-02T03:00:01|Resources||{tmp_path}",
        "9|RUNNING|rule_bertscore|2026-01-02T03:04:05|2026-01-02T03:00:00|None|n1|/another/project",
    ]
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    jobs = status.submitted()
    assert {(k, j.id, j.state) for k, j in jobs.items()} == {
        (("finetune", "tuned"), "7", "RUNNING"),
        (("generate", "base-3shot"), "8", "PENDING"),
    }
    found = status.part(Paths(), "generate", "base-3shot", {}, jobs)
    assert (found.state, found.note) == ("queued", "SLURM job 8, since 2026-01-02 03:00:01 (Resources)")
    found = status.part(Paths(), "finetune", "tuned", {("finetune", "tuned"): "why"}, jobs)
    assert (found.state, found.note) == ("running", "since 2026-01-02 03:04:05, SLURM job 7 on n1")


def test_what_a_running_job_has_used(tmp_path, monkeypatch):
    """Of its own processes, those too that it began; missing where it is not known."""
    monkeypatch.setenv("SLURM_STEP_GPUS", "0,1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    paths = Paths(cache=tmp_path)
    large = "import sys, time\nsize = bytearray(400_000_000)\nprint(flush=True)\ntime.sleep(60)"
    with locks.alone(paths, "finetune", "tuned"):
        before = locks.holder(locks.file(paths, "finetune", "tuned"))
        child = subprocess.Popen([sys.executable, "-c", large], stdout=subprocess.PIPE)
        child.stdout.readline()
        with progress.Progress("finetune", 3, show=False):
            assert locks.holder(locks.file(paths, "finetune", "tuned")) == before
        with progress.Progress("finetune", 3):
            after = locks.holder(locks.file(paths, "finetune", "tuned"))
        child.kill()
        child.communicate()
    assert before["gpus"] == after["gpus"] == "0,1" and {k for k in before if before[k] != after[k]} == {"memory"}
    assert 400e6 < after["memory"] - before["memory"] < 500e6
    assert usage.words({"gpus": "0", "gpu": "NVIDIA H200", "memory": 1_240_000_000}) == "GPU 0 (NVIDIA H200), 1.2 GB"
    assert usage.words({"host": "n1"}) == ""


@pytest.mark.parametrize("rate,shown", [(1234.5, "1234"), (99.96, "100.0"), (1.234, "1.23"), (0.0123, "0.0123"), (0, "0.0000")])
def test_the_live_view_reads_each_rate(rate, shown):
    line = f"finetune: 3/9 steps, {progress._number(rate)}/s, 1:12 left; loss 2.125"
    assert live.PROGRESS.search(line)[4] == shown


def test_one_process_at_a_time_on_a_part(tmp_path):
    paths = Paths(cache=tmp_path)
    other = f"""
from pathlib import Path
from emplifai import locks
from emplifai.paths import Paths
with locks.alone(Paths(cache=Path({str(tmp_path)!r})), "judge", "proxy"):
    Path({str(tmp_path / "second")!r}).touch()
"""
    assert locks.holder(locks.file(paths, "judge", "proxy")) is None
    with locks.alone(paths, "judge", "proxy"):
        second = subprocess.Popen([sys.executable, "-c", other], stderr=subprocess.PIPE, text=True)
        assert f"judge proxy: waiting for another that does the same (process {os.getpid()} on" in second.stderr.readline()
        assert locks.holder(locks.file(paths, "judge", "proxy"))["pid"] == os.getpid()
        assert not (tmp_path / "second").exists()
    assert second.wait(60) == 0 and (tmp_path / "second").exists()
    second.stderr.close()
