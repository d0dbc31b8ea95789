"""What a language model makes of a reply in its context: log-probability and hidden states, each text read once."""

import base64
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from emplifai.cache import Cache
from emplifai.progress import Progress
from emplifai.records import digest

STEP = 16  # tokens: rows are padded to a multiple of it
BATCH_TOKENS = 2048  # of a batch on the processor
HEAD_ROWS = 256  # tokens whose logits are there at once


class Passage(NamedTuple):
    """A text and what stands before it. `log_p` and `features` say what is wanted of it."""

    context: str
    text: str
    log_p: bool = True
    features: bool = True


class Reading(NamedTuple):
    """log_p: mean over the text's tokens, nats. features: [2 x hidden size], mean over its tokens and last token."""

    tokens: int
    log_p: float | None
    features: np.ndarray | None


UNREAD = Reading(0, None, None)  # longer than the model's positions


class Reader:
    """Reads passages with a causal model and keeps what it read in a cache.

    Batches have a shape that depends on a row's own length alone: fixed numbers of rows, filled up where there are too few.
    So a reading is the same to the last bit whatever else is asked, and a killed run ends in the tables of an undisturbed one.
    """

    def __init__(self, model: Any, tokenizer: Any, layer: int, fingerprint: str, cache: Cache):
        self.model, self.tokenizer, self.layer, self.cache = model, tokenizer, layer, cache
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self._key = [fingerprint, str(model.dtype), layer, STEP, BATCH_TOKENS]

    def read(self, passages: Iterable[Passage], what: str = "proxy: reading") -> dict[Passage, Reading]:
        """Readings by passage. Each distinct passage that the cache lacks goes through the model once."""
        passages = list(dict.fromkeys(passages))
        keys = {p: digest([*self._key, *p]) for p in passages}
        missing = [p for p in passages if keys[p] not in self.cache]
        rows = [(p, *self.encode(p)) for p in missing]
        for passage in (p for p, tokens, _ in rows if len(tokens) > self.longest):
            self.cache.put(keys[passage], pack(UNREAD))
        with Progress(what, len(missing), "texts") as progress:
            for batch in _batches([row for row in rows if len(row[1]) <= self.longest]):
                for passage, reading in zip((p for p, _, _ in batch), self._forward(batch), strict=True):
                    self.cache.put(keys[passage], pack(reading))
                progress.add(len(batch))
        return {p: unpack(self.cache.get(keys[p])) for p in passages}

    def encode(self, passage: Passage) -> tuple[list[int], int]:
        """Token ids of context and text, and where the text begins."""
        chat = bool(getattr(self.tokenizer, "chat_template", None))  # a template writes the special tokens itself
        before = self.tokenizer(passage.context, add_special_tokens=not chat).input_ids
        return before + self.tokenizer(passage.text, add_special_tokens=False).input_ids, len(before)

    def _forward(self, rows: Sequence[tuple[Passage, list[int], int]]) -> list[Reading]:
        import torch

        width = _width(len(rows[0][1]))
        ids = torch.zeros((_height(width), width), dtype=torch.long)
        for row, (_, tokens, _) in zip(ids, rows, strict=False):
            row[: len(tokens)] = torch.tensor(tokens)
        # The padding stands behind the text, where a causal model does not see it: no mask is needed.
        with torch.inference_mode():
            body = self.model.get_decoder() if hasattr(self.model, "get_decoder") else self.model.base_model
            out = body(input_ids=ids.to(self.model.device), use_cache=False, output_hidden_states=True)
            log_p = self._log_p(out.last_hidden_state, rows)
            states = out.hidden_states[self.layer].float().cpu().numpy()
        return [
            Reading(len(tokens) - start, p, _summary(states[k, start : len(tokens)]) if passage.features else None)
            for k, ((passage, tokens, start), p) in enumerate(zip(rows, log_p, strict=True))
        ]

    def _log_p(self, hidden, rows) -> list[float | None]:
        """Mean log-probability of each row's text; logits exist for HEAD_ROWS tokens at a time."""
        import torch

        wanted = [(k, tokens, start) for k, (p, tokens, start) in enumerate(rows) if p.log_p]
        values: list[float | None] = [None] * len(rows)
        if not wanted:
            return values
        states = torch.cat([hidden[k, start - 1 : len(tokens) - 1] for k, tokens, start in wanted])
        targets = torch.tensor([t for _, tokens, start in wanted for t in tokens[start:]], device=states.device)
        scores = torch.cat([self._chunk(s, t) for s, t in zip(states.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)])
        parts = scores.double().cpu().split([len(tokens) - start for _, tokens, start in wanted])
        for (k, _, _), part in zip(wanted, parts, strict=True):
            values[k] = float(part.mean())
        return values

    def _chunk(self, states, targets):
        """Log-probability of each target after its state; short chunks are filled up, so that all have one shape."""
        import torch
        from torch.nn.functional import pad

        count = len(targets)
        logits = self.model.get_output_embeddings()(pad(states, (0, 0, 0, HEAD_ROWS - count)))
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        values = []
        for row, target in zip(logits[:count], targets, strict=True):  # a row stays in the processor's cache: half the time
            row = row.float()
            row = cap * (row / cap).tanh() if cap else row
            values.append(row[target] - row.logsumexp(0))
        return torch.stack(values)


def _width(length: int) -> int:
    return -(-length // STEP) * STEP


def _height(width: int) -> int:
    return max(1, BATCH_TOKENS // width)


def _batches(rows: list[tuple[Passage, list[int], int]]) -> Iterator[list[tuple[Passage, list[int], int]]]:
    """Rows of one padded length together, longest first."""
    shelves = defaultdict(list)
    for row in rows:
        shelves[_width(len(row[1]))].append(row)
    for width in sorted(shelves, reverse=True):
        shelf = shelves[width]
        for k in range(0, len(shelf), _height(width)):
            yield shelf[k : k + _height(width)]


def _summary(states: np.ndarray) -> np.ndarray:
    return np.concatenate([states.mean(0), states[-1]])


def pack(reading: Reading) -> dict[str, Any]:
    """As JSON. Features become half floats, scaled by their largest so that none overflows (Gemma's states reach thousands)."""
    value: dict[str, Any] = {"tokens": reading.tokens, "log_p": reading.log_p}
    if reading.features is not None:
        scale = float(np.abs(reading.features).max()) or 1.0
        halves = (reading.features / scale).astype("<f2").tobytes()
        value |= {"scale": scale, "features": base64.b64encode(halves).decode()}
    return value


def unpack(value: dict[str, Any]) -> Reading:
    features = None
    if "features" in value:
        features = np.frombuffer(base64.b64decode(value["features"]), "<f2").astype(np.float32) * np.float32(value["scale"])
    return Reading(value["tokens"], value["log_p"], features)
