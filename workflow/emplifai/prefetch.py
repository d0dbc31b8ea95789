"""Fetch, prepare and verify every model that params.yaml names, where there is a network; jobs then run without one."""

import sys
from collections.abc import Iterable
from pathlib import Path

from emplifai import models
from emplifai.errors import UserError
from emplifai.params import Model, Params
from emplifai.paths import Paths


def run(params: Params, paths: Paths) -> None:
    """Print where each model lies and its size. Raises UserError naming every one that is not to be had or damaged."""
    faults = []
    for entry in wanted(params):
        try:
            place = Path(models.locate(entry.model))
            place = place if place.is_dir() else _fetch(entry)
            _verify(place)
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            print(f"{entry.model}: {size / 1e9:.2f} GB in {place}", file=sys.stderr)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)


def check(params: Params, jobs: Iterable[tuple[str, str]]) -> None:
    """Raises UserError naming every model that jobs (stage, name) need and that is not whole on this machine."""
    from emplifai.backends import weights

    faults = []
    for entry in wanted(params, jobs):
        try:
            _verify(weights.folder(entry))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)


def wanted(params: Params, jobs: Iterable[tuple[str, str]] | None = None) -> list[Model]:
    """Each model that runs here, as an entry; of some jobs (stage, name) only."""
    jobs = None if jobs is None else set(jobs)
    found = {}

    def want(stages: tuple[str, ...], name: str, **entry) -> None:
        if jobs is None or any((stage, name) in jobs for stage in stages):
            found.setdefault((entry["model"], entry["revision"]), Model(backend="transformers", **entry))

    for name, m in params.models.items():
        if m.backend == "transformers":
            stages = ("finetune", "generate")
            want(stages, name, model=m.model, revision=m.revision, trust_remote_code=m.trust_remote_code)
    for name, j in params.judges.items():
        if j.backend == "likelihood":
            want(("judge",), name, model=j.model, revision=j.revision)
    want(("bertscore",), "", model=params.bertscore.model, revision=params.bertscore.revision)
    return [found[key] for key in sorted(found, key=str)]


def _verify(place: Path) -> None:
    from emplifai.backends import weights

    weights.check_files(place)


def _fetch(entry: Model) -> Path:
    from huggingface_hub import snapshot_download

    from emplifai.backends import weights

    try:
        return Path(snapshot_download(entry.model, revision=entry.revision, allow_patterns=weights.files(entry)))
    except Exception as error:  # the hub raises a dozen kinds; each means that the model is not here
        told = " ".join(str(error).split())[:300]
        raise UserError(f"{entry.model}@{entry.revision or 'main'}: cannot be fetched: {told}") from None
