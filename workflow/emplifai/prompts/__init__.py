"""Words that models, judges and raters are given: a file for each wording, KIND-NAME.yaml.

KIND: talk (how a dialogue is put to a model), judge (a rubric), rating (the page), attacks (of the audit), hostile (attacks
that the likelihood proxy is shown).
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from emplifai import yaml_file
from emplifai.errors import UserError

WHOLE = "ja-v1"  # the wording that says what others of its kind hold


def names(kind: str) -> list[str]:
    """The wordings that there are."""
    found = (f.name for f in files("emplifai.prompts").iterdir())
    return sorted(name.removeprefix(f"{kind}-").removesuffix(".yaml") for name in found if name.startswith(f"{kind}-"))


@cache
def load(kind: str, name: str) -> dict[str, Any]:
    """A wording by its name. Raises UserError for a file that is no YAML, or lacks what the shipped Japanese one has."""
    where = Path(str(files("emplifai.prompts").joinpath(f"{kind}-{name}.yaml")))
    _, found = yaml_file.read(where, f"; there are: {', '.join(names(kind))}")
    if name == WHOLE or kind in ("attacks", "hostile"):
        return found
    if faults := _faults(load(kind, WHOLE), found):
        raise UserError(*(f"{where}: {fault}" for fault in faults))
    return found


def _faults(whole: Any, found: Any, key: str = "") -> list[str]:
    """Keys that are missing, and what is no text where one is wanted. What is there besides is the author's own."""
    if isinstance(whole, str) and not isinstance(found, str):
        return [f"{key}: text is wanted, found {found!r}"]
    if not isinstance(whole, dict):
        return []
    if not isinstance(found, dict):
        return [f"{key or 'the file'}: keys with values are wanted, found {found!r}"]
    if key.endswith("anchors"):  # of the scale that the author chose
        return []
    before = f"{key}." if key else ""
    return [
        fault
        for name, part in whole.items()
        for fault in ([f"{before}{name}: missing"] if name not in found else _faults(part, found[name], f"{before}{name}"))
    ]
