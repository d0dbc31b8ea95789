"""What a language model makes of a reply in its context: log-probability and hidden states, each text read once."""

import base64
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from emplifai.backends import caches, masks, norms, shelves
from emplifai.backends.shelves import Passage, Placed, Row
from emplifai.cache import Cache
from emplifai.loss import is_plain_head
from emplifai.progress import Progress
from emplifai.prompt import encode, encode_piece
from emplifai.records import digest
from emplifai.shards import Shard

HEAD_ROWS = 1024  # tokens that go through the head at once, over TILE words at once: 8 MB of bfloat16
TILE = 4096


class Reading(NamedTuple):
    """tokens: of text and end. log_p: their mean, nats. features: [layers x hidden size], means over the text."""

    tokens: int
    log_p: float | None
    features: np.ndarray | None


UNREAD = Reading(0, None, None)  # longer than the model's positions


class Reader:
    """Reads passages with a causal model and keeps what it read in a cache.

    What stands before several texts is read once. Batches have a shape that depends on the lengths of a row's own context and
    text alone: fixed numbers of rows, filled up where there are too few.
    So a reading is the same to the last bit whatever else is asked, and a killed run ends in the tables of an undisturbed one.
    """

    def __init__(self, model: Any, tokenizer: Any, layers: Sequence[int], fingerprint: str, cache: Cache):
        """layers: hidden states that make the features, rising."""
        self.model, self.tokenizer, self.layers, self.cache = model, tokenizer, list(layers), cache
        self.plain_head = is_plain_head(model.requires_grad_(False))
        norms.in_blocks(model)
        self.blocks = _blocks(model, layers)
        self.shares = masks.suffice(model)  # whether a context can be read once for all texts behind it
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        shapes = (shelves.STEP, shelves.CONTEXT_STEP, shelves.BATCH_TOKENS, HEAD_ROWS, TILE)
        self._key = [fingerprint, str(model.dtype), "mean", self.layers, *shapes]

    def read(
        self, passages: Iterable[Passage], what: str = "proxy: reading", shard: Shard | None = None
    ) -> dict[Passage, Reading]:
        """Readings by passage. Each distinct passage that the cache lacks goes through the model once; a shard's own only."""
        keys = {p: digest([*self._key, *p]) for p in dict.fromkeys(passages)}
        passages = [p for p, key in keys.items() if shard is None or shard.owns(key)]
        rows = [self.encode(p) for p in passages if keys[p] not in self.cache]
        for row in rows:
            if len(row.ids) > self.longest:
                self.cache.put(keys[row.passage], pack(UNREAD))
        rows = [row for row in rows if len(row.ids) <= self.longest]
        with Progress(what, len(rows), "texts") as progress:
            for found in self._together(rows):
                for passage, reading in found:
                    self.cache.put(keys[passage], pack(reading))
                progress.add(len(found))
        return {p: unpack(self.cache.get(keys[p])) for p in passages}

    def encode(self, passage: Passage) -> Row:
        before = encode([(passage.context, None)], self.tokenizer)[0]
        told = encode_piece(passage.text + passage.end, self.tokenizer)
        words = max(1, min(len(told), len(encode_piece(passage.text, self.tokenizer))))
        return Row(passage, before + told, len(before), len(before) + words)

    def _together(self, rows: list[Row]) -> Iterator[list[tuple[Passage, Reading]]]:
        """The readings of a few batches at a time: the head is quickest on many tokens at once."""
        seen: list[Seen] = []
        for batch in shelves.batches(rows, self.cut, self._before):
            seen += self._forward(batch)
            if sum(len(s.targets) for s in seen) >= 4 * HEAD_ROWS or not any(s.row.passage.log_p for s in seen):
                yield self._readings(seen)
                seen = []
        if seen:
            yield self._readings(seen)

    def cut(self, row: Row) -> int:
        """So many ids of a row are its context: all but the last before the text, which predicts the text's first."""
        return row.start - 1 if self.shares else 0

    def _before(self, contexts: list[list[Row]]) -> list[tuple[Any, Any]]:
        """Keys and values [contexts, heads, width, size] of each layer, contexts padded on the left; [] where there are none."""
        import torch

        first = contexts[0][0]
        width = shelves.width(self.cut(first), shelves.CONTEXT_STEP)
        if not width:
            return []
        ids = torch.zeros((shelves.height(width), width), dtype=torch.long)
        mask = torch.ones_like(ids)
        for k, (row, *_) in enumerate(contexts):
            mask[k, : width - self.cut(row)] = 0
            ids[k, width - self.cut(row) :] = torch.tensor(row.ids[: self.cut(row)])
        made = caches.new(room=0)
        with torch.inference_mode():
            self._pass(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), made, first.passage.log_p)
        return [(layer.keys, layer.values) for layer in made.layers]

    def _forward(self, batch: list[Placed]) -> list["Seen"]:
        """One pass: what each row's text leaves behind."""
        import torch

        row, cut, layers = batch[0]
        before, width = shelves.width(cut, shelves.CONTEXT_STEP), shelves.width(len(row.ids) - cut)
        ids = torch.zeros((shelves.height(width), width), dtype=torch.long)
        mask = torch.ones((len(ids), before + width), dtype=torch.long)
        for k, (row, cut, _) in enumerate(batch):
            ids[k, : len(row.ids) - cut] = torch.tensor(row.ids[cut:])
            mask[k, : before - cut] = 0
        # The padding behind a text is where a causal model does not see it.
        positions = (mask.cumsum(1) - 1)[:, before:].clamp(max=self.longest - 1)
        with torch.inference_mode():
            made = shelves.gathered(batch, len(ids)) if layers else None
            states, ends = self._pass(ids, mask if layers else None, positions, made, batch[0].row.passage.log_p)
            states = states.float().cpu().numpy()
        return [
            Seen(
                row,
                row.ids[row.start :] if row.passage.log_p else [],
                ends[k, row.start - 1 - cut : len(row.ids) - 1 - cut] if row.passage.log_p else None,
                states[k, row.start - cut : row.end - cut].mean(0) if row.passage.features else None,
            )
            for k, (row, cut, _) in enumerate(batch)
        ]

    def _pass(self, ids, mask, positions, made, whole: bool) -> tuple[Any, Any]:
        """States of the layers, and what the head makes log-probabilities of; that and the layers above only if `whole`."""
        device = self.model.device
        given = {"input_ids": ids.to(device), "use_cache": made is not None}
        if made is not None:
            given |= {"attention_mask": mask.to(device), "position_ids": positions.to(device), "past_key_values": made}
        if whole and self.plain_head:
            out = getattr(self.model, self.model.base_model_prefix)(**given, output_hidden_states=True)
            return self._states(out), out.last_hidden_state
        if whole or not self.blocks:
            out = self.model(**given, output_hidden_states=True)
            return self._states(out), out.logits
        seen: list[Any] = []
        hooks = [block.register_forward_hook(partial(self._keep, seen)) for block in self.blocks]
        try:
            self.model(**given)
        except Reached:
            return _joined(seen), None
        finally:
            for hook in hooks:
                hook.remove()
        raise AssertionError("the layers were not reached")

    def _states(self, out: Any) -> Any:
        return _joined([out.hidden_states[layer] for layer in self.layers])

    def _keep(self, seen: list[Any], block: Any, given: Any, states: Any) -> None:
        seen.append(states[0] if isinstance(states, tuple) else states)
        if len(seen) == len(self.blocks):
            raise Reached

    def _readings(self, seen: list["Seen"]) -> list[tuple[Passage, Reading]]:
        import torch

        with torch.inference_mode():
            targets = torch.tensor([t for s in seen for t in s.targets], device=self.model.device, dtype=torch.long)
            values = targets.new_empty(0)
            if len(targets):
                ends = torch.cat([s.ends for s in seen if s.ends is not None])
                parts = zip(ends.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
                values = torch.cat([self._log_p(e, t) for e, t in parts]).double().cpu()
        means = [float(part.mean()) if len(part) else None for part in values.split([len(s.targets) for s in seen])]
        return [
            (s.row.passage, Reading(len(s.row.ids) - s.row.start, mean, s.features)) for s, mean in zip(seen, means, strict=True)
        ]

    def _log_p(self, ends, targets):
        """Log-probability of each target. ends: [tokens, hidden] before a plain head, else [tokens, vocabulary] logits.

        The vocabulary goes by in tiles that stay in the processor's cache, and all chunks have one shape.
        """
        import torch
        from torch.nn.functional import pad

        if not self.plain_head:
            logits = ends.float()
            return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
        head = self.model.get_output_embeddings().weight
        filled = pad(ends, (0, 0, 0, HEAD_ROWS - len(ends)))
        logits = torch.empty(HEAD_ROWS, TILE, dtype=ends.dtype, device=ends.device)
        norms = []
        for tile in head.split(TILE):
            part = torch.mm(filled, tile.T, out=logits) if len(tile) == TILE else filled @ tile.T
            norms.append(torch.cat([rows.float().logsumexp(1) for rows in part.split(32)]))
        found = (ends.float() * head[targets].float()).sum(1)
        return found - torch.stack(norms).logsumexp(0)[: len(ends)]


class Reached(Exception):
    """Ends a pass at the last layer whose states are wanted."""


def _joined(states: Sequence[Any]) -> Any:
    """Layers beside each other: [rows, tokens, layers x hidden size]."""
    import torch

    return torch.cat(list(states), -1)


def _blocks(model: Any, layers: Sequence[int]) -> list[Any]:
    """The modules whose outputs are these hidden states; none where the model has no plain list of layers."""
    from torch.nn import ModuleList

    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, ModuleList) and len(m) == depth]
    return [stacks[0][layer - 1] for layer in layers] if len(stacks) == 1 and layers[-1] < depth else []


class Seen(NamedTuple):
    """A row after its pass: the ids whose probability is wanted, and the state (or logits) before each."""

    row: Row
    targets: list[int]
    ends: Any  # None where none is wanted
    features: np.ndarray | None


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
