"""Words that models, judges and raters are given: a file for each wording, KIND-NAME.yaml.

KIND: talk (how a dialogue is put to a model), judge (a rubric), rating (the page), attacks (of the audit), hostile (attacks
that the likelihood proxy is shown).
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from emplifai import yaml_file
from emplifai.errors import UserError

SHIPPED = ("ja-v1", "en-v1")  # they say what others of their kind hold


def names(kind: str) -> list[str]:
    """The wordings that there are."""
    found = (f.name for f in files("emplifai.prompts").iterdir())
    return sorted(name.removeprefix(f"{kind}-").removesuffix(".yaml") for name in found if name.startswith(f"{kind}-"))


@cache
def load(kind: str, name: str) -> dict[str, Any]:
    """A wording by its name. Raises UserError for a file that is no YAML, lacks what the shipped ones have, or has braces that
    nothing fills in."""
    where = Path(str(files("emplifai.prompts").joinpath(f"{kind}-{name}.yaml")))
    _, found = yaml_file.read(where, f"; there are: {', '.join(names(kind))}")
    if name in SHIPPED or kind in ("attacks", "hostile"):
        return found
    if faults := _faults([load(kind, shipped) for shipped in SHIPPED], found):
        raise UserError(*(f"{where}: {fault}" for fault in faults))
    return found


def _faults(shipped: list[Any], found: Any, key: str = "") -> list[str]:
    """Keys that are missing, what is no text where one is wanted, wrong braces. What is there besides is the author's own."""
    if isinstance(shipped[0], str):
        return _text_faults(shipped, found, key)
    if not isinstance(shipped[0], dict):
        return []
    if not isinstance(found, dict):
        return [f"{key or 'the file'}: keys with values are wanted, found {found!r}"]
    if key.endswith("anchors"):  # of the scale that the author chose
        return []
    faults, before = [], f"{key}." if key else ""
    for name in shipped[0]:
        parts = [wording[name] for wording in shipped]
        faults += _faults(parts, found[name], f"{before}{name}") if name in found else [f"{before}{name}: missing"]
    return faults


def _text_faults(shipped: list[str], found: Any, key: str) -> list[str]:
    """Braces in a text that is filled in: the shipped ones say what may stand between them."""
    if not isinstance(found, str):
        return [f"{key}: text is wanted, found {found!r}"]
    if not (known := set().union(*(_fields(text) or () for text in shipped))):
        return []
    if (named := _fields(found)) is None:
        return [f"{key}: a brace without its other; braces that are to be read are doubled"]
    told = f"is nothing that is filled in; {', '.join(f'{{{name}}}' for name in sorted(known))} are, other braces are doubled"
    return [f"{key}: {{{name}}} {told}" for name in sorted(named - known)]


def _fields(text: str) -> set[str] | None:
    """What stands between single braces; None where they do not match."""
    try:
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError:
        return None
