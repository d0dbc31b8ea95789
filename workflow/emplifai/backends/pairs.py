"""BERTScore of many pairs of texts: each pair scored once, each text encoded once.

What is cached is a pair's score: three numbers, where embeddings of all texts would be gigabytes. Of the references the
embeddings are kept as well, since a new model's replies meet them again.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from emplifai import models
from emplifai.cache import Cache
from emplifai.params import Bertscore
from emplifai.records import digest

WINDOW_TOKENS = 300_000  # embeddings in memory at a time: 0.8 GB at width 640
DECIMALS = 6  # of a score: finer digits differ between machines

Pair = tuple[str, str]  # candidate, reference


class PairScore(NamedTuple):
    """None where a text has no token that counts. truncated: a text was longer than the encoder takes."""

    precision: float | None
    recall: float | None
    f1: float | None
    truncated: bool = False


UNDEFINED = PairScore(None, None, None)


class PairScorer:
    """Scores pairs with the encoder of the params; loads it only when a pair is not in the cache."""

    def __init__(self, settings: Bertscore, cache: Path):
        self.settings = settings
        self.layer = settings.layer or _recommended(settings.model)
        self.fingerprint = models.fingerprint(settings.model, settings.revision)
        self.encoded_tokens = self.scored_pairs = 0
        self._folder = cache / "bertscore"
        self._encoder = None

    @property
    def hash(self) -> str:
        """What was computed, as bert-score's get_hash says it; then what makes a bare model name exact."""
        name = self.settings.model
        own = f"emplifai-1_{self.settings.dtype}_weights={self.fingerprint[:12]}"
        return f"{name}_L{self.layer}_no-idf_version={installed('bert-score')}(hug_trans={installed('transformers')})_{own}"

    def scores(self, pairs: Iterable[Pair]) -> dict[Pair, PairScore]:
        """The score of each pair. An empty text has none."""
        pairs = dict.fromkeys(pairs)
        identity = self.hash
        keys = {pair: digest([identity, self.fingerprint, *map(str.strip, pair)]) for pair in pairs if all(map(str.strip, pair))}
        cache = Cache(self._folder)
        missing = {keys[pair]: pair for pair in pairs if pair in keys and keys[pair] not in cache}
        for window in self._windows(list(missing.values())):
            for pair, score in self._score(window):
                cache.put(keys[pair], list(score))
        cache.close()
        return {pair: PairScore(*cache.get(keys[pair])) if pair in keys else UNDEFINED for pair in pairs}

    def _windows(self, pairs: list[Pair]) -> Iterator[list[Pair]]:
        """Pairs by reference, as many at a time as the memory holds."""
        window, tokens = [], 0
        for pair in sorted(pairs, key=lambda p: (p[1], p[0])):
            window.append(pair)
            tokens += len(pair[0])  # a token is seldom shorter than a character
            if tokens >= WINDOW_TOKENS:
                yield window
                window, tokens = [], 0
        if window:
            yield window

    def _score(self, pairs: list[Pair]) -> Iterator[tuple[Pair, PairScore]]:
        from emplifai.statistics.matching import greedy

        encoder, store = self._loaded()
        references = {r.strip() for _, r in pairs}
        texts = sorted({t.strip() for pair in pairs for t in pair})
        ids, long = encoder.tokenize(texts)
        truncated = dict(zip(texts, long, strict=True))
        new = [k for k, text in enumerate(texts) if text not in store]
        vectors, weights = encoder.encode([ids[k] for k in new])
        self.encoded_tokens += sum(len(ids[k]) for k in new)
        self.scored_pairs += len(pairs)
        known = {texts[k]: both for k, both in zip(new, zip(vectors, weights, strict=True), strict=True)}
        store.add({t: both for t, both in known.items() if t in references})
        known |= {t: tuple(x.to(encoder.device) for x in store.get(t)) for t in texts if t not in known}
        place = {t: k for k, t in enumerate(texts)}
        vectors, weights = [known[t][0] for t in texts], [known[t][1] for t in texts]
        found = greedy(vectors, weights, vectors, weights, [(place[c.strip()], place[r.strip()]) for c, r in pairs])
        for (c, r), score in zip(pairs, found, strict=True):
            numbers = [round(x, DECIMALS) for x in score] if score else [None] * 3
            yield (c, r), PairScore(*numbers, truncated[c.strip()] or truncated[r.strip()])

    def _loaded(self):
        if self._encoder is None:
            from emplifai.backends.embeddings import Embeddings
            from emplifai.backends.encoder import Encoder

            s = self.settings
            store = Embeddings(self._folder / "references" / digest([self.hash, self.fingerprint])[:32])
            self._encoder = Encoder(s.model, self.layer, s.dtype, s.batch_tokens, s.revision), store
        return self._encoder


def installed(package: str) -> str:
    """Version of a package, "none" where it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _recommended(model: str) -> int:
    from emplifai.backends.encoder import recommended_layer

    return recommended_layer(model)
