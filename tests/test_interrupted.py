"""kill -9 of Snakemake and its jobs in the dear stages: the same command goes on, does nothing twice, ends in the same tables."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import THREADS, environment, runner, tables

pytestmark = pytest.mark.slow
STAGES = ("finetune", "generate", "judge")


def under_way(project: Path, stage: str) -> bool:
    """Whether the stage has done a part of its work and not yet all."""
    if stage == "finetune":
        return any(f.is_file() and "partial" not in f.name for f in (project / ".cache/finetune").rglob("*"))
    return any(f.stat().st_size for f in (project / ".cache" / stage).rglob("*.jsonl"))


def test_killed_in_each_dear_stage(undisturbed, project):
    command = ("snakemake", "--cores", "2", "--quiet", "all", "--", "all")
    env = environment(**THREADS)
    killed = []
    for stage in STAGES:
        process = subprocess.Popen(command, cwd=project, env=env, start_new_session=True)
        deadline = time.monotonic() + 200
        while process.poll() is None and not under_way(project, stage):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if process.poll() is None and not killed:  # what removes the lock of a dead Snakemake leaves that of a living one
            os.killpg(process.pid, signal.SIGSTOP)
            refused = runner(project)("snakemake", "--cores", "2", "all", ok=False).stderr
            assert "Another Snakemake runs here (" in refused and "Directory cannot be locked" in refused
        if process.poll() is None:
            killed.append(stage)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "finetune" in killed and len(killed) >= 2  # the tiny judge may be done before it is seen
    runner(project)(*command, **THREADS)
    assert tables(project) == undisturbed
    for stage in ("generate", "judge"):
        lines = [line for f in (project / ".cache" / stage).rglob("*.jsonl") for line in f.read_text().splitlines()]
        keys = Counter(json.loads(line)["key"] for line in lines if line.endswith("}"))
        assert keys and max(keys.values()) == 1, f"{stage}: something was computed twice"
    assert not list(project.rglob("*.partial"))
