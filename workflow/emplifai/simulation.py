"""Simulated raters, so that a demonstration reaches its end before people were asked. Never a finding.

Each reply has a planted quality: 0.6 of it is its likeness to the words that a person answered (Dice coefficient of character
bigrams, as a normal score over all replies rated), the rest is noise. It comes from the texts alone: neither BERTScore nor any
judge has a part in it. A rater sees the quality plus a severity of their own plus noise (reliability 0.6 of a single rating)
and gives the nearest point of the scale. Noise is drawn from hashes of seed and names: order does not matter.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from emplifai.records import Question, Rating, digest, sha256

PLANTED = 0.6  # correlation of the quality with the likeness to the person's reply
RELIABILITY = 0.6  # share of quality in the variance of one rating, within a rater
SEVERITY = 0.3  # standard deviation of raters' means, in standard deviations of a rating


def simulate(
    questions: Sequence[Question], raters: int, items: int, criteria: Iterable[str], scale: tuple[int, int], seed: int
) -> list[Rating]:
    """Ratings by `raters` simulated people of the replies to `items` dialogues, marked as simulated."""
    chosen = set(sorted({q.dialogue.dialogue_id for q in questions}, key=lambda name: digest([seed, name]))[:items])
    rated = [q for q in questions if q.dialogue.dialogue_id in chosen]
    likeness = _normal_scores([_dice(q.text, q.dialogue.reference) for q in rated])
    ratings = []
    for criterion in criteria:
        for question, like in zip(rated, likeness, strict=True):
            key = [seed, criterion, question.dialogue.dialogue_id, question.model]
            quality = PLANTED * like + np.sqrt(1 - PLANTED**2) * _normal("quality", *key)
            for k in range(1, raters + 1):
                rater = f"simulated-{k}"
                seen = quality * np.sqrt(RELIABILITY) + _normal(rater, *key) * np.sqrt(1 - RELIABILITY)
                score = _point(seen + SEVERITY * _normal(rater, seed, criterion), scale)
                dialogue = question.dialogue.dialogue_id
                ratings.append(Rating(rater, dialogue, question.model, criterion, score, sha256(question.text), simulated=True))
    return ratings


def _dice(a: str, b: str) -> float:
    """Dice coefficient of the sets of character bigrams, 0 to 1."""
    x, y = ({t[i : i + 2] for i in range(len(t) - 1)} for t in (a, b))
    return 2 * len(x & y) / (len(x) + len(y)) if x and y else 0.0


def _normal_scores(values: Sequence[float]) -> np.ndarray:
    """Ranks turned into standard normal quantiles (mid-ranks for ties)."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(values) - 0.5) / len(values)) if len(values) else np.zeros(0)


def _normal(*key: object) -> float:
    """A standard normal number that depends on the key alone."""
    from scipy.special import ndtri

    number = int.from_bytes(hashlib.sha256("\0".join(map(str, key)).encode()).digest()[:8], "big")
    return float(ndtri((number + 0.5) / 2**64))


def _point(value: float, scale: tuple[int, int]) -> int:
    """The point of the scale for a standard normal value: the middle for 0, a quarter of the width a standard deviation."""
    low, high = scale
    return int(np.clip(np.floor((low + high) / 2 + value * (high - low) / 4 + 0.5), low, high))
