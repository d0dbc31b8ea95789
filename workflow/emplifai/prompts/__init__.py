"""Words that models and judges are given: a file for each wording, KIND-NAME.yaml."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from emplifai.errors import UserError


@cache
def load(kind: str, name: str, key: str) -> dict[str, Any]:
    """A wording that `key` of params.yaml names. Raises UserError naming those there are."""
    folder = files("emplifai.prompts")
    there = sorted(
        f.name.removeprefix(f"{kind}-").removesuffix(".yaml") for f in folder.iterdir() if f.name.startswith(f"{kind}-")
    )
    if name not in there:
        raise UserError(f"params.yaml: {key}: no {folder}/{kind}-{name}.yaml; there are: {', '.join(there)}")
    return yaml.safe_load(folder.joinpath(f"{kind}-{name}.yaml").read_text("utf-8"))
