"""The likelihood proxy: scores from what a language model finds probable. It tells faults; it is no LLM judge.

fluency: log-probability of the reply without its context. empathy: a linear head on hidden states, fitted on train
situations whose references stand beside worse replies. emotion_empathy: how much likelier the situation and the patient's
words make the reply (pointwise mutual information): "fits this situation". Scores are ranks among dev anchors.
Known limit: machine text is more probable to a machine, so both measures of probability put tuned models above people.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from emplifai import contrast, models, probes, prompt, records
from emplifai.backends import proxy, weights
from emplifai.backends.features import Passage, Reader, Reading
from emplifai.cache import Cache
from emplifai.errors import UserError
from emplifai.params import JudgeModel, Model, Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Judgement, Question, Turn, digest, sha256
from emplifai.shards import Shard

FAULTS = {  # the worse anchors of a criterion: the faults that it is about, and that it can see
    "fluency": ("truncated", "garbled"),
    "empathy": (*contrast.WRITTEN, "shuffled", "truncated", "parrot"),
    "emotion_empathy": (*contrast.WRITTEN, "shuffled"),
}
SHOWN = ("shuffled", "truncated", "parrot")  # made faults that the head is fitted on, beside the written ones and attacks
LAYERS = (1 / 2, 2 / 3)  # of the depth: what the head sees; chosen on dev situations, see docs/judge.md
RATIONALE = {
    "fluency": "proxy: log-probability without context, not an LLM rating",
    "empathy": "proxy: linear head on hidden states, not an LLM rating",
    "emotion_empathy": "proxy: PMI (fits this situation), not an LLM rating",
}
UNWRITTEN = "; the head knows shuffled, truncated and parroted replies only, as the data has no written contrasts"


class Value(NamedTuple):
    """What a criterion measured: value (None where it cannot judge), the numbers behind it."""

    value: float | None
    raw: dict[str, Any]


TOO_LONG = Value(None, {"reason": "longer than the model can read"})


def answer(questions: Sequence[Question], name: str, judge: JudgeModel, params: Params, paths: Paths) -> Iterator[Judgement]:
    """A Judgement for each question and criterion, in the order asked; method "proxy", sample 0.

    Reads train and dev dialogues, and writes what the model read to .cache/judge/NAME. Raises UserError when dev is empty.
    """
    criteria = judge.criteria or params.judge.criteria
    scorer = Scorer(read(questions, name, judge, params, paths), params.judge.scale, criteria)
    if not scorer.written and "empathy" in criteria:
        print(f"warning: judge {name}{UNWRITTEN}", file=sys.stderr)
    for question in questions:
        for criterion in criteria:
            yield scorer.judge(question, name, criterion)


def again(questions: Sequence[Question], name: str, judge: JudgeModel, params: Params, paths: Paths) -> Iterator[Judgement]:
    """Two scores of each question and criterion, samples 0 and 1, by proxies fitted and anchored on half of the situations each.

    How far they are apart, over the square root of 2, is the proxy's test-retest noise: it answers the same question always
    alike, but another draw of situations makes another proxy. Reads nothing that `answer` has not read.
    """
    criteria = judge.criteria or params.judge.criteria
    texts, fit, anchors, limit = read(questions, name, judge, params, paths)
    names = sorted({q.dialogue.situation_id for q in (*fit, *anchors)}, key=sha256)
    for half in (0, 1):
        kept = set(names[half::2])
        parts = ([q for q in rows if q.dialogue.situation_id in kept] for rows in (fit, anchors))
        scorer = Scorer(Material(texts, *parts, limit), params.judge.scale, criteria)
        for question in questions:
            for criterion in criteria:
                yield replace(scorer.judge(question, name, criterion), sample=half)


def fill(questions: Sequence[Question], name: str, judge: JudgeModel, params: Params, paths: Paths, shard: Shard) -> None:
    """Read a shard's share of all texts into the cache."""
    read(questions, name, judge, params, paths, shard)


def read(
    questions: Sequence[Question], name: str, judge: JudgeModel, params: Params, paths: Paths, shard: Shard | None = None
) -> "Material":
    """Read all that judging these questions needs; a shard reads its share only."""
    train, dev = (list(records.read_jsonl(paths.part(part), Dialogue)) for part in ("train", "dev"))
    if not train or not dev:
        raise UserError(f"judge {name}: the proxy is fitted on train and anchored on dev dialogues; split.dev must be above 0")
    talk, groups = prompt.talk_of(params.data), contrast.chosen(train, params.judge.fit_situations)
    criteria = judge.criteria or params.judge.criteria
    fit = [*contrast.questions(groups, train, SHOWN), *attacked(groups, talk.wording.language)] if "empathy" in criteria else []
    anchors = contrast.questions(contrast.leading(dev), dev)
    cache = Cache(paths.cache / "judge" / name)
    try:
        texts = Texts(judge, talk, cache)
        asked = [p for q in questions for p in texts.asked(q, criteria)]
        known = [p for q in anchors for p in texts.asked(q, [c for c in criteria if anchors_of(c, q.model)])]
        texts.read([*asked, *known, *(p for q in fit for p in texts.asked(q, ["empathy"]))], shard)
    finally:
        cache.close()
    return Material(texts, fit, anchors, proxy.overlap_limit([(d.reference, d.patient) for d in dev]))


@lru_cache(maxsize=1)
def _load(model: str, revision: str | None) -> tuple[Any, Any]:
    """The model and its tokenizer, once for the scores and for what is asked of the proxy afterwards."""
    return weights.load(Model(backend="transformers", model=model, revision=revision))


class Texts:
    """The texts as the model reads them: with their context, and in the same form with all words before them blank."""

    def __init__(self, judge: JudgeModel, talk: prompt.Talk, cache: Cache):
        model, self.tokenizer = _load(judge.model, judge.revision)
        depth = model.config.get_text_config().num_hidden_layers
        fingerprint = models.fingerprint(judge.model, judge.revision)
        layers = sorted({max(1, round(depth * share)) for share in LAYERS})
        self.reader = Reader(model, self.tokenizer, layers, fingerprint, cache)
        self.talk = talk
        self.settings = [fingerprint, "mean", *layers]
        self.readings: dict[Passage, Reading] = {}

    def asked(self, question: Question, criteria: Sequence[str]) -> list[Passage]:
        """What must be read to judge a text on these criteria."""
        if not question.text.strip():
            return []
        fits = "emotion_empathy" in criteria
        blank = [self.blank(question)] if fits or "fluency" in criteria else []
        given = [self.given(question)._replace(log_p=fits)] if fits or "empathy" in criteria else []
        return [*given, *blank]

    def features(self, question: Question) -> np.ndarray | None:
        """Of the text in its context, whether or not its log-probability was asked for too; None: too long to read."""
        passage = self.given(question)
        return self.readings[passage if passage in self.readings else passage._replace(log_p=False)].features

    def given(self, question: Question) -> Passage:
        return self._passage(question.dialogue, question.text, features=True)

    def blank(self, question: Question) -> Passage:
        turns = [Turn("patient", ""), Turn("supporter", "")]
        return self._passage(replace(question.dialogue, situation="", turns=turns), question.text, features=False)

    def read(self, passages: Iterable[Passage], shard: Shard | None = None) -> None:
        self.readings |= self.reader.read(passages, shard=shard)

    def _passage(self, dialogue: Dialogue, text: str, features: bool) -> Passage:
        told = replace(dialogue, turns=[*dialogue.turns[:-1], Turn("supporter", text.strip())])
        pieces = prompt.segments(told, self.talk, self.tokenizer)
        piece = [text for text, task in pieces if task == "reply"][-1]
        words = text.strip() if piece.startswith(text.strip()) else piece
        return Passage(prompt.before(pieces, "reply"), words, piece.removeprefix(words), True, features)


class Material(NamedTuple):
    """texts: as far as they were read; fit: what the head is fitted on; anchors: what the scores are anchored on.

    limit: overlap with the patient's words that hardly any person's reply on dev exceeds.
    """

    texts: Texts
    fit: list[Question]
    anchors: list[Question]
    limit: float


class Scorer:
    """The fitted head, the anchors of each criterion and the guards."""

    def __init__(self, material: Material, scale: tuple[int, int], criteria: Sequence[str]):
        self.texts, fit, anchors, self.limit = material
        self.scale = scale
        self.written = any(q.model in contrast.WRITTEN for q in fit)
        self.head = fitted(self.texts, fit) if fit else None
        self.anchors = {criterion: self._anchors(criterion, anchors) for criterion in criteria}

    def judge(self, question: Question, name: str, criterion: str) -> Judgement:
        found = self.measure(question, criterion)
        rationale = RATIONALE[criterion] + (UNWRITTEN if criterion == "empathy" and not self.written else "")
        passage = self._passage(question, criterion)
        return Judgement(
            judge=name,
            dialogue_id=question.dialogue.dialogue_id,
            model=question.model,
            criterion=criterion,
            sample=0,
            score=None if found.value is None else round(self._score(criterion, found), 4),
            status="refused" if found.value is None else "ok",
            method="proxy",
            rationale=rationale,
            raw=json.dumps(found.raw, ensure_ascii=False),
            prompt_sha256=digest([passage.context, criterion, *self.texts.settings]),
            text_sha256=sha256(question.text),
        )

    def measure(self, question: Question, criterion: str) -> Value:
        """The criterion's raw number, or why there is none."""
        if not question.text.strip():
            return Value(None, {"reason": "empty reply: not asked"})
        return {"fluency": self._fluency, "empathy": self._empathy, "emotion_empathy": self._fit}[criterion](question)

    def _fluency(self, question: Question) -> Value:
        blank = self.texts.readings[self.texts.blank(question)]
        return Value(blank.log_p, {"log_p": _round(blank.log_p), "tokens": blank.tokens}) if blank.tokens else TOO_LONG

    def _empathy(self, question: Question) -> Value:
        features = self.texts.features(question)
        return TOO_LONG if features is None else Value(value := self.head(features), {"head": _round(value)})

    def _fit(self, question: Question) -> Value:
        given, blank = (self.texts.readings[p] for p in (self.texts.given(question), self.texts.blank(question)))
        if not given.tokens:
            return TOO_LONG
        pmi = given.log_p - blank.log_p
        shared = proxy.overlap(question.text, question.dialogue.patient)
        raw = {"pmi": _round(pmi), "log_p_given": _round(given.log_p), "log_p": _round(blank.log_p), "overlap": _round(shared)}
        if not contrast.ends(question.text):
            return Value(None, {"reason": "does not end in a sentence mark: PMI rewards texts that are cut off", **raw})
        return Value(pmi, {**raw, "capped": shared > self.limit})

    def _score(self, criterion: str, found: Value) -> float:
        """On the scale. A reply that repeats the patient gets at most what the median of the worse anchors gets."""
        low, high = self.scale
        score = self.anchors[criterion].score(found.value, self.scale)
        return min(score, low + (high - low) / 4) if found.raw.get("capped") else score

    def _anchors(self, criterion: str, anchors: Sequence[Question]) -> proxy.Anchors:
        values = [(q.model, self.measure(q, criterion).value) for q in anchors if anchors_of(criterion, q.model)]
        good = [v for kind, v in values if kind == "reference" and v is not None]
        return proxy.anchors([v for kind, v in values if kind != "reference" and v is not None], good)

    def _passage(self, question: Question, criterion: str) -> Passage:
        return self.texts.blank(question) if criterion == "fluency" else self.texts.given(question)


def attacked(groups: Sequence[Dialogue], language: str) -> list[Question]:
    """Each reference with words that ask for a high score: a fault that the head is shown. The audit has other wordings."""
    forms = list(probes.attacks(language, "hostile").values())
    return [Question(d, "attacked", forms[k % len(forms)].format(reply=d.reference)) for k, d in enumerate(groups)]


def anchors_of(criterion: str, kind: str) -> bool:
    """Whether texts of a kind anchor a criterion's scale."""
    return kind in ("reference", *FAULTS[criterion])


def fitted(texts: Texts, questions: Sequence[Question]) -> proxy.Head:
    """The head that puts each reference above the worse replies to the same patient."""
    features = [(q.dialogue.dialogue_id, q.model, texts.features(q)) for q in questions]
    features = [row for row in features if row[2] is not None]
    good = {dialogue: f for dialogue, kind, f in features if kind == "reference"}
    pairs = [(good[dialogue], f) for dialogue, kind, f in features if kind != "reference" and dialogue in good]
    return proxy.fit_head(np.stack([g for g, _ in pairs]), np.stack([b for _, b in pairs]))


def _round(value: float) -> float:
    return round(value, 6)
