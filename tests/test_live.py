"""What runs shows in MLflow while it runs, and goes when it ends."""

import os

import psutil
import pytest
import yaml

from conftest import ROOT, write_params
from emplifai import live, locks
from emplifai.params import load
from emplifai.paths import Paths

pytestmark = pytest.mark.slow


def test_losses_of_a_running_finetune(tmp_path, monkeypatch):
    import mlflow

    write_params(tmp_path, yaml.safe_load((ROOT / "params.yaml").read_text()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "81")
    monkeypatch.setenv("SLURM_STEP_GPUS", "3")
    params, paths, sent = load(), Paths(), {}
    log = paths.log("finetune", "tuned")
    log.parent.mkdir(parents=True)
    log.write_text("loading\nfinetune: 10/56 steps, 0.5/s, 1:32 left; loss 2.500, dev 2.750\n")

    def runs() -> list:
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        return [(run, client) for run in client.search_runs(["1"])]

    with locks.alone(paths, "finetune", "tuned"), locks.alone(paths, "generate", "base.2of5"):
        live.show(params, paths, sent)
        with log.open("a") as file:
            file.write("finetune: 20/56 steps, 0.5/s, 1:12 left; loss 2.125, dev 2.750\n")
        live.show(params, paths, sent)
        found = {run.info.run_name: (run, client) for run, client in runs()}
        assert set(found) == {"running: finetune/tuned", "running: generate/base.2of5"}
        run, client = found["running: finetune/tuned"]
        assert run.info.status == "RUNNING"
        assert {k: run.data.tags[k] for k in ("stage", "model", "slurm_job_id", "gpus", "pid")} == {
            "stage": "finetune",
            "model": "tuned",
            "slurm_job_id": "81",
            "gpus": "3",
            "pid": str(os.getpid()),
        }
        curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "training/loss")]
        assert curve == [(10, 2.5), (20, 2.125)]
        memory = run.data.metrics["system/peak_memory_bytes"]
        own = psutil.Process().memory_info().rss  # what it began is counted too, each at its peak
        assert 0.2 * own < memory < own + psutil.virtual_memory().total
        assert run.data.metrics["progress"] == pytest.approx(20 / 56) and run.data.metrics["system/seconds"] >= 0
    live.show(params, paths, sent)
    assert runs() == []
