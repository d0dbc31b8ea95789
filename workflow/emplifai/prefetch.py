"""Fetch and prepare every model that params.yaml names, where there is a network; jobs then run without one."""

import sys
from pathlib import Path

from emplifai import models
from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths

NEEDED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.py", "tokenizer*"]


def run(params: Params, paths: Paths) -> None:
    """Print where each model lies and its size. Raises UserError naming every one that is not to be had."""
    faults = []
    for name, revision in wanted(params):
        try:
            place = Path(models.locate(name))
            place = place if place.is_dir() else _fetch(name, revision)
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            print(f"{name}: {size / 1e9:.2f} GB in {place}", file=sys.stderr)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)


def wanted(params: Params) -> list[tuple[str, str | None]]:
    """Name and revision of each model that runs here."""
    here = [(m.model, m.revision) for m in params.models.values() if m.backend == "transformers"]
    here += [(j.model, j.revision) for j in params.judges.values() if j.backend == "likelihood"]
    here += [(params.bertscore.model, params.bertscore.revision)]
    return sorted({(name, revision) for name, revision in here if name}, key=str)


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=NEEDED))
    except Exception as error:  # the hub raises a dozen kinds; each means that the model is not here
        raise UserError(f"{name}@{revision or 'main'}: cannot be fetched: {' '.join(str(error).split())[:300]}") from None
