"""What an LLM judge is asked, and how its answer is read. The rubrics are prompts/judge-NAME.yaml.

Judged text is data: it stands in a fence named by its own digest, and what could close a fence or open a chat role is
replaced by full-width look-alikes (compare "spotlighting", Hines et al. 2024, arXiv 2403.14720).
"""

import json
import math
import re
import unicodedata
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from emplifai.errors import UserError
from emplifai.labels import Label
from emplifai.records import Question, sha256

Message = dict[str, str]


class Verdict(NamedTuple):
    """What a judge's answer says: a score on the scale, or None and why."""

    score: int | None
    rationale: str
    reason: str = ""


@cache
def load(name: str) -> dict[str, Any]:
    """A rubric by its name (judge.rubric). Raises UserError naming those there are."""
    folder = files("emplifai.prompts")
    there = sorted(f.name.removeprefix("judge-").removesuffix(".yaml") for f in folder.iterdir() if f.name.startswith("judge-"))
    if name not in there:
        raise UserError(f"params.yaml: judge.rubric: no rubric {name!r}; there are: {', '.join(there)}")
    return yaml.safe_load(folder.joinpath(f"judge-{name}.yaml").read_text("utf-8"))


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
    part = form["criteria"][criterion]
    anchors = "\n".join(f"{point}：{text}" for point, text in sorted(part["anchors"].items()))
    common = {"name": part["name"], "definition": part["definition"], "low": scale[0], "high": scale[1]}
    told = {
        "label": _label(form, labels[question.dialogue.emotion]) if criterion == "emotion_empathy" else "",
        "situation": fence(question.dialogue.situation),
        "patient": fence(question.dialogue.patient),
        "reply": fence(question.text),
    }
    return [
        {"role": "system", "content": form["system"].format(anchors=anchors, **common)},
        {"role": "user", "content": form["user"].format(**common, **told)},
    ]


def _label(form: dict[str, Any], label: Label) -> str:
    definition = label.definition_ja if form["language"] == "ja" else label.definition_en
    return form["label"].format(ja=label.ja, en=label.name, definition=definition or label.ja) + "\n"


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


def schema(scale: tuple[int, int]) -> dict[str, Any]:
    """response_format of a verdict. The reason comes first: a score that follows its reason is the better one."""
    verdict = {
        "type": "object",
        "properties": {
            "rationale": {"type": "string"},
            "score": {"type": "integer", "enum": list(range(scale[0], scale[1] + 1))},
        },
        "required": ["rationale", "score"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": verdict}}


STATED = re.compile(  # "スコア: 4点", "Score: **4**/5"; neither "3-4" nor "評価は3つの点で"
    r"""(?:score|rating|スコア|評点|評価|点数)[\s」』*]*(?::|=|は)[\s"'「『*]*(-?\d[\d.]*)"""
    r"""(?!\s*[-–~〜]\s*\d)(?=\s*(?:点|/|です|[。.,、*」』"'\s)}]|$))""",
    re.IGNORECASE,
)


def read(text: str, scale: tuple[int, int]) -> Verdict:
    """The last verdict in an answer: a JSON object with a score, else a stated one (スコア：4), else a bare number.

    Only a whole number on the scale is a score. 11, 3.5 and 3-4 are none: what a judge did not say is not made up.
    """
    verdicts = list(_objects(text))
    if verdicts:
        last = verdicts[-1]
        rationale = last.get("rationale")
        return _verdict(last["score"], scale, rationale if isinstance(rationale, str) else "")
    plain = unicodedata.normalize("NFKC", text).strip()
    found = STATED.findall(plain) or re.findall(r"^(-?[0-9][0-9.]*)(?:点)?[。.]?$", plain)
    if not found:
        return Verdict(None, "", "no verdict in the answer" if plain else "empty answer")
    return _verdict(found[-1].rstrip(".,"), scale, "")


def score_token(tokens: list[dict]) -> dict | None:
    """The token with which an answer states its last score, of all tokens with their probabilities; None if there is none.

    It is the first token after the last "score": that holds a digit.
    """
    text, ends = "", []
    for token in tokens:
        text += token["token"]
        ends.append(len(text))
    stated = list(re.finditer(r'"score"\s*:\s*"?', text))
    if not stated:
        return None
    after = stated[-1].end()
    return next((t for t, end in zip(tokens, ends, strict=True) if end > after and re.search(r"\d", t["token"])), None)


def expected(token: dict, scale: tuple[int, int]) -> float | None:
    """Mean of the scale's points, weighted by the probabilities of the tokens that could have stood at the score.

    token: of score_token. Alternatives that are no point of the scale are left out. None if no point is among them.
    Source: G-Eval (Liu et al., EMNLP 2023), section 2.
    """
    weights: dict[int, float] = {}
    for option in token.get("top_logprobs") or []:
        point = re.fullmatch(r"\W*(\d)", unicodedata.normalize("NFKC", option["token"]).strip())
        if point and scale[0] <= int(point[1]) <= scale[1]:
            weights[int(point[1])] = weights.get(int(point[1]), 0.0) + math.exp(option["logprob"])
    total = sum(weights.values())
    return sum(point * weight for point, weight in weights.items()) / total if total else None


def _objects(text: str):
    """JSON objects with a score, in order. What stands inside such an object's strings is not looked at."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = None, at + 1
        if isinstance(value, dict) and "score" in value:
            yield value
        else:
            end = at + 1
        at = text.find("{", end)


def _verdict(score: Any, scale: tuple[int, int], rationale: str) -> Verdict:
    low, high = scale
    if isinstance(score, str) and re.fullmatch(r"-?[0-9]{1,9}(?:\.0+)?", unicodedata.normalize("NFKC", score).strip()):
        score = float(unicodedata.normalize("NFKC", score))
    if isinstance(score, bool) or not isinstance(score, int | float) or score != score or score % 1:
        return Verdict(None, rationale, f"not a whole number: {str(score)[:40]}")
    if not low <= score <= high:
        return Verdict(None, rationale, f"outside the scale of {low} to {high}: {score:g}")
    return Verdict(int(score), rationale)
