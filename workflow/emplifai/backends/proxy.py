"""The statistics of the likelihood proxy: a linear head on hidden states, a scale anchored on known texts, two guards."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Head(NamedTuple):
    """Which way in feature space replies get better. mean, scale, weights: [features]."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def __call__(self, features: np.ndarray) -> float:
        return float((np.asarray(features, float) - self.mean) / self.scale @ self.weights)


def fit_head(good: np.ndarray, bad: np.ndarray, c: float = 0.01) -> Head:
    """Logistic regression on differences good[i] - bad[i] of paired texts, without intercept.

    good, bad: [pairs, features]; c: inverse of the L2 penalty. Both signs of each difference are shown, as two classes
    (pairwise ranking: Herbrich, Graepel, Obermayer 1999). Features are standardised over all texts shown.
    """
    from sklearn.linear_model import LogisticRegression

    shown = np.unique(np.concatenate([good, bad]).astype(float), axis=0)
    mean, scale = shown.mean(0), shown.std(0)
    scale[scale == 0] = 1
    differences = (good.astype(float) - bad) / scale
    rows = np.concatenate([differences, -differences])
    sides = np.repeat([1, 0], len(differences))
    model = LogisticRegression(C=c, fit_intercept=False, max_iter=2000).fit(rows, sides)
    return Head(mean, scale, model.coef_[0])


class Anchors(NamedTuple):
    """Values of texts known to be worse and known to be good, each sorted."""

    worse: np.ndarray
    good: np.ndarray

    def score(self, value: float, scale: tuple[int, int]) -> float:
        """A place on the scale: lowest below all anchors; the middle above all worse and below all good; highest above all.

        low + (high - low) x mean of the share of worse and the share of good texts that lie below. A rank, not a rating.
        """
        low, high = scale
        shares = [np.searchsorted(part, value) / len(part) if len(part) else 0.0 for part in self]
        return float(low + (high - low) * sum(shares) / 2)


def anchors(worse: Iterable[float], good: Iterable[float]) -> Anchors:
    return Anchors(np.sort(np.fromiter(worse, float)), np.sort(np.fromiter(good, float)))


def overlap(text: str, patient: str) -> float:
    """Share of a text's character bigrams that the patient said: 1 for a parrot, 0 for a text of one character."""
    pairs, said = _bigrams(text), set(_bigrams(patient))
    return sum(pair in said for pair in pairs) / len(pairs) if pairs else 0.0


def overlap_limit(texts: Sequence[tuple[str, str]], quantile: float = 0.99) -> float:
    """What hardly any of the good (text, patient's words) exceeds."""
    return float(np.quantile([overlap(text, patient) for text, patient in texts], quantile))


def _bigrams(text: str) -> list[str]:
    letters = "".join(text.split())
    return [letters[k : k + 2] for k in range(len(letters) - 1)]
