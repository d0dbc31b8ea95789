"""kill -9 in the middle of the dear stages: the same command goes on, computes nothing twice, ends in the same tables."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import environment, make_project, runner

pytestmark = pytest.mark.slow
STAGES = ("finetune", "generate", "judge")


def tables(project: Path) -> dict[str, bytes]:
    files = [f for pattern in ("*.jsonl", "*.csv", "*.safetensors") for f in (project / "results").rglob(pattern)]
    return {str(f.relative_to(project)): f.read_bytes() for f in files}


def under_way(project: Path, stage: str) -> bool:
    """Whether the stage has done a part of its work and not yet all."""
    if stage == "finetune":
        return any(f.is_file() and "partial" not in f.name for f in (project / ".cache/finetune").rglob("*"))
    return any(f.stat().st_size for f in (project / ".cache" / stage).rglob("*.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model):
    project = make_project(tmp_path_factory.mktemp("undisturbed") / "project", tiny_model)
    runner(project)("snakemake", "--cores", "2", "--quiet", "all", "--", "all", OMP_NUM_THREADS="1")
    return tables(project)


def test_killed_in_each_dear_stage(undisturbed, project):
    command = ("snakemake", "--cores", "2", "--rerun-incomplete", "--quiet", "all", "--", "all")
    env = environment(OMP_NUM_THREADS="1")
    killed = []
    for stage in STAGES:
        process = subprocess.Popen(command, cwd=project, env=env, start_new_session=True)
        deadline = time.monotonic() + 200
        while process.poll() is None and not under_way(project, stage):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if process.poll() is None:
            killed.append(stage)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        runner(project)("snakemake", "--unlock")  # kill -9 leaves Snakemake's own lock; it says so itself
    assert "finetune" in killed and len(killed) >= 2  # the tiny judge may be done before it is seen
    runner(project)(*command, OMP_NUM_THREADS="1")
    assert tables(project) == undisturbed
    for stage in ("generate", "judge"):
        lines = [line for f in (project / ".cache" / stage).rglob("*.jsonl") for line in f.read_text().splitlines()]
        keys = Counter(json.loads(line)["key"] for line in lines if line.endswith("}"))
        assert keys and max(keys.values()) == 1, f"{stage}: something was computed twice"
    assert not list(project.rglob("*.partial"))
