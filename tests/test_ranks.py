"""Training in two processes (gloo, on the processor): the same weights as in one, through a kill, with faults in plain words."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from conftest import BIN, change_params, environment
from emplifai import finetune, ranks, split, validate
from emplifai.errors import UserError
from emplifai.params import load
from emplifai.paths import Paths
from emplifai.records import read_json

pytestmark = pytest.mark.slow
COMMAND = (BIN / "emplifai", "finetune", "--model", "tuned")


@pytest.fixture
def ready(project, monkeypatch):
    monkeypatch.chdir(project)
    change_params(project, finetune__max_dialogues=60, finetune__accumulation=2, finetune__evaluate_every=3)
    for stage in (validate, split):
        stage.run(load(), Paths())
    return project


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tuned/history.jsonl").read_text().splitlines()]


def started(project: Path) -> subprocess.Popen:
    env = environment(OMP_NUM_THREADS="1")
    return subprocess.Popen(COMMAND, cwd=project, env=env, stderr=subprocess.PIPE, text=True)


def test_two_processes_end_in_the_weights_of_one(ready):
    import torch
    from safetensors.torch import load_file

    finetune.run(load(), Paths(folders={"finetune": Path("one")}), "tuned")
    change_params(ready, finetune__gpus=2, finetune__accumulation=1)

    first = started(ready)
    until = time.monotonic() + 200
    while not list((ready / ".cache/finetune").glob("*/state.pt"))[1:]:
        assert first.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    children = [c for c in psutil.Process(first.pid).children() if "spawn_main" in " ".join(c.cmdline())]
    max(children, key=lambda c: c.pid).send_signal(signal.SIGKILL)
    _, said = first.communicate(timeout=200)
    assert first.returncode == 2 and "error: finetune: process 1 of 2 was killed by SIGKILL, most often for memory" in said, said
    assert "Traceback" not in said and not (ready / "results/finetune/tuned/adapter").exists()

    again = started(ready)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0 and said.count("goes on from step") == 1, said
    one, two = Path("one/tuned"), Path("results/finetune/tuned")
    assert [p.relative_to(one) for p in sorted(one.rglob("*"))] == [p.relative_to(two) for p in sorted(two.rglob("*"))]
    for a, b in zip(history(one.parent), history(two.parent), strict=True):
        assert a == pytest.approx(b, rel=1e-5), "a step's loss, gradient or rate"
    a, b = (load_file(p / "adapter/adapter_model.safetensors") for p in (one, two))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=name)
    assert read_json(two / "metrics.json")["dev_loss"] == pytest.approx(read_json(one / "metrics.json")["dev_loss"], rel=1e-5)
    assert read_json(two / "run.json")["processes"] == 2


def raises(fault: str) -> None:
    raise UserError(fault)


def test_a_fault_in_each_process_is_said_once():
    with pytest.raises(UserError, match="nothing to train on") as raised:
        ranks.launch(2, raises, "nothing to train on")
    assert len(raised.value.faults) == 1 and raised.value.faults[0].startswith("nothing")
