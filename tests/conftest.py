"""Fixtures: a tiny model with random weights, a small project folder, and the command line as a user calls it."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from emplifai import prompt
from emplifai.params import Data
from emplifai.records import Dialogue, Turn

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
TALK = prompt.talk_of(Data(labels=ROOT / "data/labels.yaml"))
THREADS = {"OMP_NUM_THREADS": "1"}  # sums of floats depend on the number of threads; a SLURM job's own is its cores


@pytest.fixture(scope="module")
def one_thread():
    """Sums of floats depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A Llama of 2 layers with random weights and a character tokenizer over the corpus: a real folder, no download."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


def build_tiny(folder: Path, seed: int = 0, letters: str = "") -> None:
    """A model of two layers with random weights that reads and writes letters, by default those of the corpus."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = letters or "".join(p.read_text("utf-8") for p in (ROOT / "data/corpus").glob("*.jsonl")) + "\n：。、abcdefghij"
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<bos>", "<eos>", "<pad>", *sorted(set(letters))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def serve(tiny_model, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """`transformers serve` with the tiny model and a chat template: its base_url and the model's name there.

    The model's embeddings of 1 to 5 are long, so most answers are such a digit, which one depends on the prompt.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(tiny_model, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data[AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list("12345"))] *= 20
    model.save_pretrained(folder)
    template = "{% for m in messages %}{{ m['role'] }}：{{ m['content'] }}\n{% endfor %}assistant："
    (folder / "chat_template.jinja").write_text(template)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "transformers", "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with open(folder.parent / "log", "w") as log:
        server = subprocess.Popen([*command, folder], env=environment(), stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, folder.parent / "log")
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            server.kill()  # asked politely it would first finish what tests no longer wait for
            server.wait()


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"transformers serve did not come up:\n{log.read_text()[-3000:]}")


def corpus(emotions: int = 4, situations: int = 10) -> dict[str, list[dict]]:
    """A part of the embedded corpus: {emotion: lines}."""
    files = sorted((ROOT / "data/corpus").glob("*.jsonl"))[:emotions]
    return {f.stem: [json.loads(line) for line in f.read_text("utf-8").splitlines()[:situations]] for f in files}


def dialogues(emotions: int = 4, situations: int = 10, written: bool = False) -> list[Dialogue]:
    """The same part as validate writes it. written: the first dialogue of a situation has its contrast replies."""
    return [
        Dialogue(
            f"{row['situation_id']}-{k}",
            row["situation_id"],
            row["emotion"],
            row["condition"],
            row["situation"],
            [Turn("patient", patient), Turn("supporter", reply)],
            {"contrast": row["contrast"]} if written and k == 1 else {},
        )
        for rows in corpus(emotions, situations).values()
        for row in rows
        for k, (patient, reply) in enumerate(row["dialogues"], 1)
    ]


def make_project(folder: Path, tiny_model: Path) -> Path:
    """A copy of the project that runs in seconds: 4 emotions of the corpus, tiny models."""
    folder.mkdir()
    for name in ("Snakefile", "dvc.yaml", "workflow", "envs", "slurm", ".dvc", ".dvcignore", ".gitignore"):
        source = ROOT / name
        if source.is_dir() and not source.is_symlink():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "cache", "tmp", "config.local")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, folder / name, follow_symlinks=False)
    (folder / "data/corpus").mkdir(parents=True)
    (folder / "data/ratings").mkdir()
    shutil.copy(ROOT / "data/ratings/README.md", folder / "data/ratings/README.md")  # git keeps no empty folder
    for emotion, rows in corpus().items():
        (folder / "data/corpus" / f"{emotion}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    shutil.copy(ROOT / "data/labels.yaml", folder / "data/labels.yaml")
    write_params(folder, tiny_params(tiny_model))
    return folder


@pytest.fixture
def project(tmp_path, tiny_model) -> Path:
    """A small project in a folder of its own."""
    return make_project(tmp_path / "project", tiny_model)


def tiny_params(model: Path) -> dict:
    """The project's own params.yaml, with tiny models and small numbers: every key is one that users have."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    small = {
        "finetune": {"rank": 4, "max_dialogues": 32, "checkpoint_every": 2},
        "generate": {"max_new_tokens": 12},
        "bertscore": {"model": str(model), "layer": 1},
        "judge": {"fit_situations": 8},
        "correlate": {"resamples": 200, "simulated_items": 12},
    }
    for section, values in small.items():
        params[section] |= values
    for entry in [*params["models"].values(), *params["judges"].values()]:
        if "model" in entry:
            entry["model"] = str(model)
    for entry in params["models"].values():
        if entry["backend"] == "transformers":
            entry["dtype"] = "float32"
    return params


def write_params(folder: Path, values: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))


def change_params(folder: Path, **values) -> None:
    """Set values by dotted keys written with double underscores: judge__temperature=0.7."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for key, value in values.items():
        *parents, last = key.split("__")
        section = params
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    write_params(folder, params)


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has activated the project's environment; no network, no outer SLURM or Snakemake."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SNAKEMAKE_", "MLFLOW_"))}
    path = os.pathsep.join([str(BIN), keep.get("PATH", "")])
    return {**keep, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", **more}


def runner(project: Path):
    """run("snakemake", "--cores", "2", "all", ok=True) in a project; returns the finished process with its texts."""

    def call(*command: str, ok: bool | None = True, timeout: float = 600, cwd: Path = project, **env: str):
        done = subprocess.run(
            [str(c) for c in command], cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=timeout
        )
        if ok is not None:
            assert (done.returncode == 0) == ok, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture
def run(project):
    """The runner of `project`."""
    return runner(project)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_model) -> Path:
    """A small project after `snakemake all` and `dvc repro` on this machine, undisturbed; take a copy of it, or compare."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project", tiny_model)
    run = runner(project)
    run("git", "init", "-q")
    run("snakemake", "--cores", "2", "all", **THREADS)
    run("dvc", "repro", **THREADS)
    return project


@pytest.fixture(scope="session")
def undisturbed(finished) -> dict[str, str]:
    return tables(finished)


def tables(project: Path) -> dict[str, str]:
    """Digest of every table and every weight of every stage."""
    files = [f for pattern in ("*.jsonl", "*.csv", "*.safetensors") for f in (project / "results").rglob(pattern)]
    return {str(f.relative_to(project / "results")): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}
