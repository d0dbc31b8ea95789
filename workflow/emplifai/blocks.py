"""The pieces of the report's sections, and the names that every section gives to systems, judges and raters."""

from dataclasses import dataclass, field

from emplifai import figures, findings
from emplifai.evidence import ANCHORS, Evidence
from emplifai.figures import Figure
from emplifai.tables import Table

SIMULATED = "simulated raters"  # stands wherever a number came from them


@dataclass
class Note:
    """A paragraph; kind: plain, or warning."""

    text: str
    kind: str = "plain"


@dataclass
class Section:
    """A part of the page under a heading of its own."""

    id: str
    title: str
    blocks: list[Note | Table | Figure] = field(default_factory=list)


def kind(run: Evidence, model: str) -> str:
    backend = run.params.models[model].backend
    return "anchor" if backend in ANCHORS else ("tuned" if run.params.models[model].tuned else "")


def marks(run: Evidence) -> dict[str, str]:
    return {model: kind(run, model) for model in run.params.models}


def emotion_names(run: Evidence, names: list[str]) -> list[str]:
    """Names of emotions for a figure, with the word that models read where it is another and can be drawn."""
    words = {n: run.labels[n].word for n in names}
    return [f"{n} {words[n]}" if words[n] != n and figures.japanese_font() else n for n in names]


def judge_name(run: Evidence, judge: str) -> str:
    return f"{judge} (likelihood proxy)" if findings.is_proxy(run, judge) else f"{judge} (LLM judge)"


def heads(run: Evidence, judge: str) -> dict[str, str]:
    """Criteria of a judge as they are shown: one that is invalid for comparing systems is marked wherever it stands."""
    broken = findings.invalid(findings.validity(run, judge))
    return {c: f"{c} (invalid)" if c in broken else c for c in findings.criteria(run, judge)}
