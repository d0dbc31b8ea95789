"""Reading a judge's answer: a score on the scale, or which of two replies is better. What was not said is not made up."""

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """What a judge's answer says: a score on the scale, or None and why."""

    score: int | None
    rationale: str
    reason: str = ""


STATED = re.compile(  # "スコア: 4点", "Score: **4**/5"; neither "3-4" nor "評価は3つの点で"
    r"""(?:score|rating|スコア|評点|評価|点数)[\s」』*]*(?::|=|は)[\s"'「『*]*(-?\d[\d.]*)"""
    r"""(?!\s*[-–~〜]\s*\d)(?=\s*(?:点|/|です|[。.,、*」』"'\s)}]|$))""",
    re.IGNORECASE,
)


def read(text: str, scale: tuple[int, int], key: str = "score") -> Verdict:
    """The last verdict in an answer: a JSON object with a score, else a stated one (スコア：4), else a bare number.

    key: where in the object the score stands; with another than "score", where several are asked for, only an object counts.
    Only a whole number on the scale is a score. 11, 3.5 and 3-4 are none: what a judge did not say is not made up.
    """
    verdicts = list(_objects(text, key))
    if verdicts:
        return _verdict(verdicts[-1][key], scale, _rationale(verdicts[-1]))
    if key != "score":
        return Verdict(None, "", f"no verdict with {key!r} in the answer" if text.strip() else "empty answer")
    plain = unicodedata.normalize("NFKC", text).strip()
    found = STATED.findall(plain) or re.findall(r"^(-?[0-9][0-9.]*)(?:点)?[。.]?$", plain)
    if not found:
        return Verdict(None, "", "no verdict in the answer" if plain else "empty answer")
    return _verdict(found[-1].rstrip(".,"), scale, "")


CHOICES = {"A": "first", "B": "second", "TIE": "tie", "引き分け": "tie"}


def choice(text: str) -> tuple[str | None, str, str]:
    """What an answer says of two replies: first, second, tie or None; its rationale; why there is no choice.

    The last JSON object with a choice counts, or a bare A, B or tie as the whole answer.
    """
    objects = list(_objects(text, "choice"))
    said = objects[-1]["choice"] if objects else text.strip(" \n。.")
    found = CHOICES.get(unicodedata.normalize("NFKC", said).strip().upper()) if isinstance(said, str) else None
    if found:
        return found, _rationale(objects[-1]) if objects else "", ""
    return None, "", f"neither A, B nor tie: {str(said)[:40]}" if objects else "no choice in the answer"


def _rationale(verdict: dict[str, Any]) -> str:
    return verdict["rationale"] if isinstance(verdict.get("rationale"), str) else ""


def score_token(tokens: list[dict], key: str = "score") -> dict | None:
    """The token with which an answer states its last score, of all tokens with their probabilities; None if there is none.

    It is the first token after the last "score": (or another key) that holds a digit.
    """
    text, ends = "", []
    for token in tokens:
        text += token["token"]
        ends.append(len(text))
    stated = list(re.finditer(rf'"{key}"\s*:\s*"?', text))
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


def _objects(text: str, key: str) -> Iterator[dict[str, Any]]:
    """JSON objects that hold a key, in order. What stands inside such an object's strings is not looked at."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = None, at + 1
        if isinstance(value, dict) and key in value:
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
