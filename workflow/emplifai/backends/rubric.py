"""What an LLM judge is asked. The rubrics are prompts/judge-NAME.yaml; verdicts.py reads the answers.

Judged text is data: it stands in a fence named by its own digest, and what could close a fence or open a chat role is
replaced by full-width look-alikes (compare "spotlighting", Hines et al. 2024, arXiv 2403.14720).
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from emplifai import prompts
from emplifai.errors import UserError
from emplifai.labels import Label
from emplifai.records import Pair, Question, sha256

Message = dict[str, str]


def load(name: str) -> dict[str, Any]:
    """A rubric by its name (judge.rubric). Raises UserError naming those there are."""
    return prompts.load("judge", name)


def check(name: str, criteria: list[str], scale: tuple[int, int], method: str = "stated") -> None:
    """Raises UserError when a rubric has no anchors for a criterion or for the scale's points."""
    faults = []
    if method == "expected" and not 0 <= scale[0] < scale[1] <= 9:
        faults.append(f"params.yaml: judge.scale is {list(scale)}, but method 'expected' needs points of one digit, 0 to 9")
    for criterion in criteria:
        anchors = load(name)["criteria"].get(criterion, {}).get("anchors", {})
        if sorted(anchors) != list(range(scale[0], scale[1] + 1)):
            found = f"anchors for {min(anchors)} to {max(anchors)}" if anchors else "no anchors"
            faults.append(f"params.yaml: judge.scale is {list(scale)}, but rubric {name} has {found} of {criterion}")
    if faults:
        raise UserError(*faults)


def messages(question: Question, criterion: str, rubric: str, labels: dict[str, Label], scale: tuple[int, int]) -> list[Message]:
    """The chat that asks for one score. All that questions share stands first, so that servers can reuse it."""
    form = load(rubric)
    common = _part(form, criterion, scale)
    texts = _texts(form, question, (criterion,), labels) | {"reply": fence(question.text)}
    return _chat(form["system"].format(**common), form["user"].format(**common, **texts))


def together(question: Question, criteria: Sequence[str], rubric: str, labels: dict[str, Label], scale: tuple[int, int]):
    """The chat that asks for a score on each criterion in one answer."""
    form = load(rubric)
    ask = form["together"]
    parts = [_part(form, criterion, scale) | {"key": criterion} for criterion in criteria]
    common = {"low": scale[0], "high": scale[1], "scores": ", ".join(ask["score"].format(key=c) for c in criteria)}
    system = ask["system"].format(criteria="\n\n".join(ask["part"].format(**part) for part in parts), **common)
    texts = _texts(form, question, criteria, labels) | {"reply": fence(question.text)}
    return _chat(system, ask["user"].format(**common, **texts))


def comparison(pair: Pair, rubric: str, labels: dict[str, Label], scale: tuple[int, int]) -> list[Message]:
    """The chat that asks which of two replies is better on one criterion, A (read first), B or neither."""
    form = load(rubric)
    common = _part(form, pair.criterion, scale)
    texts = _texts(form, pair.first, (pair.criterion,), labels)
    texts |= {"first": fence(pair.first.text), "second": fence(pair.second.text)}
    return _chat(form["pair"]["system"].format(**common), form["pair"]["user"].format(**common, **texts))


def _part(form: dict[str, Any], criterion: str, scale: tuple[int, int]) -> dict[str, Any]:
    part = form["criteria"][criterion]
    colon = "：" if form["language"] == "ja" else ": "
    anchors = "\n".join(f"{point}{colon}{text}" for point, text in sorted(part["anchors"].items()))
    return {"name": part["name"], "definition": part["definition"], "anchors": anchors, "low": scale[0], "high": scale[1]}


def _texts(form: dict[str, Any], question: Question, criteria: Sequence[str], labels: dict[str, Label]) -> dict[str, str]:
    """What the judge is told of a dialogue; the emotion only where it is asked about."""
    dialogue = question.dialogue
    label = _label(form, labels[dialogue.emotion]) if "emotion_empathy" in criteria else ""
    return {"label": label, "situation": fence(dialogue.situation), "patient": fence(dialogue.patient)}


def _chat(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _label(form: dict[str, Any], label: Label) -> str:
    definition = label.definition(form["language"]) or label.word
    name = label.name if label.word == label.name else f"{label.name} ({label.word})"
    return form["label"].format(word=label.word, name=name, definition=definition) + "\n"


class _Neutral(dict):
    """What str.translate puts in a character's place."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        hidden = letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cf")
        self[code] = {"<": "＜", ">": "＞"}.get(letter, "" if hidden else letter)
        return self[code]


_NEUTRAL = _Neutral()


@lru_cache(maxsize=4096)
def fence(text: str) -> str:
    """The text as data. The fence's name is the text's digest: nobody can write a text that holds its own."""
    name = f"data-{sha256(text)[:8]}"
    return f"<{name}>\n{neutral(text)}\n</{name}>"


def neutral(text: str) -> str:
    """The text with nothing in it that ends a fence, opens a chat role or hides from the reader.

    < and > become full-width, as do the brackets of [INST] and the like; control and invisible format characters go.
    """
    text = text.translate(_NEUTRAL)
    return re.sub(r"\[(/?[A-Z_]{3,})\]", r"［\1］", text)


def schema(scale: tuple[int, int], keys: Sequence[str] = ("score",)) -> dict[str, Any]:
    """response_format of a verdict. The reason comes first: a score that follows its reason is the better one."""
    point = {"type": "integer", "enum": list(range(scale[0], scale[1] + 1))}
    return _schema("verdict", dict.fromkeys(keys, point))


def choice_schema() -> dict[str, Any]:
    """response_format of a comparison."""
    return _schema("choice", {"choice": {"type": "string", "enum": ["A", "B", "tie"]}})


def _schema(name: str, values: dict[str, Any]) -> dict[str, Any]:
    properties = {"rationale": {"type": "string"}, **values}
    form = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": form}}
