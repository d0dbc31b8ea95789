"""What needs no judge: how far length and character n-grams of a reply alone tell the contrast set's faults."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emplifai import contrast, probes
from emplifai.records import Dialogue, Question, sha256
from emplifai.statistics.auc import auc_interval

LEARNT = 2_000  # situations that Surface learns from at most: their n-grams are what takes its memory


def aucs(contrasts: Sequence[Question], surface: "Surface") -> dict[str, float | None]:
    """contrast.KIND.length.auc, .surface.auc and .surface_unseen.auc: the rows to read beside a judge's AUC."""
    references = {q.dialogue.dialogue_id: q.text for q in contrasts if q.model == "reference"}
    numbers = {}
    for kind in sorted({q.model for q in contrasts} - {"reference"}):
        pairs = [(references[q.dialogue.dialogue_id], q.text) for q in contrasts if q.model == kind]
        for name, value in surface.aucs(kind, pairs).items():
            numbers[f"contrast.{kind}.{name.removesuffix('_auc')}.auc"] = value
    return numbers


def above(replies: Mapping[str, Sequence[Question]], surface: "Surface") -> dict[str, float]:
    """reference_above.MODEL.surface: share of dialogues in which n-grams alone put the reference above the system's reply.

    A judge whose share is no higher may know the systems by their style.
    """
    pairs = {model: [(q.dialogue.reference, q.text) for q in rows if q.text.strip()] for model, rows in replies.items()}
    return {f"reference_above.{model}.surface": surface.above(found) for model, found in pairs.items() if found}


class Surface:
    """What length and character n-grams of the reply alone tell: a judge that is no better has not read the dialogue.

    surface: TF-IDF of the reply, learnt on the train situations' own contrasts; surface_unseen: on all kinds but this one.
    """

    def __init__(self, train: Sequence[Dialogue]):
        found: dict[str, list[str]] = defaultdict(list)
        groups = sorted(contrast.leading(train), key=lambda d: sha256(d.situation_id))[:LEARNT]
        for question in contrast.questions(groups, train, probes.KINDS):
            found[question.model].append(question.text)
        self._texts = {kind: sorted(texts, key=sha256) for kind, texts in sorted(found.items())}
        self._learnt: dict[tuple[str, ...], Any] = {}

    def aucs(self, kind: str, pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
        """pairs: (reference, worse text) of the test dialogues; kind: of the worse texts."""
        worse = [k for k in self._texts if k != "reference"]
        return {
            "length_auc": _auc([(len(good), len(bad)) for good, bad in pairs]),
            "surface_auc": self._told([k for k in worse if k == kind], pairs),
            "surface_unseen_auc": self._told([k for k in worse if k != kind], pairs),
        }

    def above(self, pairs: Sequence[tuple[str, str]]) -> float | None:
        """Share of (reference, reply) in which the reference has the higher score, learnt on all kinds; ties as one half."""
        scores = self._scores([k for k in self._texts if k != "reference"], pairs)
        return None if scores is None else float(np.mean((np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2))

    def _told(self, kinds: list[str], pairs: Sequence[tuple[str, str]]) -> float | None:
        scores = self._scores(kinds, pairs)
        return None if scores is None else _auc([(a, b) for a, b in scores])

    def _scores(self, kinds: list[str], pairs: Sequence[tuple[str, str]]) -> np.ndarray | None:
        """[pairs, 2]: how surely each text is a reference and none of these kinds; None where nothing can be learnt."""
        if not kinds or not pairs or "reference" not in self._texts:
            return None
        known, model = self._model(tuple(kinds))
        counts = self._counter.transform([text for pair in pairs for text in pair])
        return model.decision_function(counts[:, known]).reshape(-1, 2)

    def _model(self, kinds: tuple[str, ...]) -> tuple[Any, Any]:
        """Which n-grams references and texts of these kinds hold, and what tells the two apart by them; fitted once."""
        from scipy.sparse import vstack
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        if not self._learnt:
            self._count()
        if kinds not in self._learnt:
            parts = [self._counts["reference"], *(self._counts[kind] for kind in kinds)]
            rows = vstack(parts).tocsc()
            known = rows.getnnz(0).nonzero()[0]
            labels = [1] * parts[0].shape[0] + [0] * (rows.shape[0] - parts[0].shape[0])
            tell = LogisticRegression(C=30, max_iter=1000, class_weight="balanced", random_state=0)
            self._learnt[kinds] = known, make_pipeline(TfidfTransformer(sublinear_tf=True), tell).fit(rows[:, known], labels)
        return self._learnt[kinds]

    def _count(self) -> None:
        """Counting n-grams takes longest, so it is done once, for all kinds."""
        from sklearn.feature_extraction.text import CountVectorizer

        self._counter = CountVectorizer(analyzer="char", ngram_range=(1, 4))
        self._counter.fit([text for texts in self._texts.values() for text in texts])
        self._counts = {kind: self._counter.transform(texts) for kind, texts in self._texts.items()}


def _auc(pairs: Sequence[tuple[float, float]]) -> float | None:
    ones = [""] * len(pairs)
    return auc_interval([a for a, _ in pairs], [b for _, b in pairs], ones, ones, resamples=1).estimate
