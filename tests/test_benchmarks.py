"""benchmarks/gpu.py on the CPU: what a GPU would time gives the same results as its peers."""

import subprocess
import sys

import pytest

from conftest import ROOT, environment


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_one():
    run = [sys.executable, "-W", "ignore", "benchmarks/gpu.py", "--size", "tiny"]
    env = environment(CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal texts: 24 of 24" in done.stdout
    assert "no numbers of the real size were taken" in done.stdout
