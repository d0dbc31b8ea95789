"""How well one of many labels was named: accuracy, macro-F1, top-k and the confusion matrix."""

from collections import Counter
from collections.abc import Sequence


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold)


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean F1 over the labels that occur in `gold`; a prediction of another label only misses (a false negative)."""
    truth, named = Counter(gold), Counter(predicted)
    right = Counter(g for g, p in zip(gold, predicted, strict=True) if g == p)
    return sum(2 * right[label] / (truth[label] + named[label]) for label in sorted(truth)) / len(truth)


def top(gold: Sequence[str], rankings: Sequence[Sequence[str]], k: int = 3) -> float:
    """Share of items whose label is among the first k of its ranking (most probable first)."""
    return sum(g in ranking[:k] for g, ranking in zip(gold, rankings, strict=True)) / len(gold)


def confusion(gold: Sequence[str], predicted: Sequence[str]) -> dict[tuple[str, str], int]:
    """{(gold, predicted): count} of the cells that are not 0, in order."""
    return dict(sorted(Counter(zip(gold, predicted, strict=True)).items()))
