"""Rows of token ids through a causal language model: batches by length, the beginning that all rows share read once.

Rows are padded on the left, so that the distance of two tokens in the batch is their distance in the text: sliding
windows stay exact. Caches keep all positions, also where the model attends to a window only.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from emplifai.backends import caches, masks, norms, prefix

SHARED_FROM = 16  # tokens; a shorter common beginning is not worth a pass of its own


def plan(lengths: Sequence[int], fits: Callable[[int, int], bool]) -> list[list[int]]:
    """Indices in batches, longest rows first (what does not fit into memory shows at once).

    fits(rows, longest) says whether a batch of so many rows may run; a single row always does. Equal lengths keep order.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or not fits(len(batches[-1]) + 1, lengths[batches[-1][0]]):
            batches.append([])
        batches[-1].append(index)
    return batches


def common(rows: Sequence[list[int]]) -> list[int]:
    """The ids that all rows begin with; at least one token of each row is left."""
    if len(rows) < 2:
        return []
    first, last = min(rows), max(rows)  # in dictionary order: what these two share, all share
    most = min(map(len, rows)) - 1
    length = next((k for k in range(most) if first[k] != last[k]), most)
    return rows[0][:length] if length >= SHARED_FROM else []


@dataclass
class Batch:
    """A batch after its prompts were read: mask [rows, keys of each], lengths [rows], logits [rows, kept, vocabulary]."""

    cache: Any
    mask: Any
    lengths: Any
    logits: Any

    def keep(self, rows: Any) -> None:
        """Let all other rows leave. rows: a tensor of indices, in the order that they shall have."""
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


class Reader:
    """Reads rows with one model; what all rows of a job begin with is computed once (`share`)."""

    def __init__(self, model: Any):
        self.model = model
        norms.in_blocks(model)
        self.device = model.get_input_embeddings().weight.device
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._prefix: list[int] = []
        self._cache: Any = None
        self._once = False  # whether all rows attend to one copy of what they share

    def share(self, rows: Sequence[list[int]]) -> None:
        """Read what the rows have in common, for the batches to come."""
        import torch

        self._prefix, self._cache, self._once = common(rows), None, False
        if self._prefix:
            ids = torch.tensor([self._prefix], device=self.device)
            self._cache = caches.new()
            with torch.inference_mode():
                self.forward(ids, torch.ones_like(ids), torch.arange(ids.shape[1], device=self.device)[None], self._cache, 1)
                self._once = prefix.install(self.model) and self._agrees(sorted(rows, key=len)[:2])

    def _agrees(self, rows: Sequence[list[int]]) -> bool:
        """Whether attention to keys that exist once gives what attention to copies gives: a family may do it in its own way."""
        import torch

        copied = self.read(rows).logits.float()
        self._once = True
        try:
            once = self.read(rows).logits.float()
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False
        return bool(torch.allclose(once, copied, rtol=0, atol=5e-2 * float(copied.abs().max())))

    def read(self, rows: Sequence[list[int]], keep: int = 1) -> Batch:
        """Read whole rows; logits at their last `keep` positions."""
        import torch

        longest = max(map(len, rows))
        pad = [longest - len(row) for row in rows]
        shared = len(self._prefix)
        if keep > longest - shared or (max(pad) > shared and not self._once):
            shared = 0  # the new tokens alone do not give what is asked for
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        places = torch.arange(longest, device=self.device)[None] - (longest - lengths[:, None])
        if shared and self._once:
            cache = caches.behind(self._cache)
            new = [[0] * p + row[shared:] for p, row in zip(pad, rows, strict=True)]
            mask = (places[:, shared:] >= shared).long()
        else:
            cache = self._shifted(pad) if shared else caches.new()
            # a shorter row reads the end of the shared part again: that fills its place instead of padding
            new = [([0] * p + row)[shared:] for p, row in zip(pad, rows, strict=True)]
            mask = (places >= 0).long()
        ids = torch.tensor(new, device=self.device)
        return Batch(cache, mask, lengths, self.forward(ids, mask, places.clamp(min=0)[:, shared:], cache, keep))

    def forward(self, ids: Any, mask: Any, positions: Any, cache: Any, keep: int) -> Any:
        """Logits [rows, keep, vocabulary] of the last `keep` positions, in the model's dtype.

        mask [rows, keys], without what the rows share where it exists once; or as the model takes it (masks.py).
        """
        more = {"logits_to_keep": keep} if self._keeps else {}
        shared = caches.shared(cache)
        if shared and not isinstance(mask, dict) and mask.dim() == 2:
            mask = self._causal(mask, positions, shared)
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **more
        )
        return out.logits[:, -keep:]

    def _causal(self, mask: Any, positions: Any, shared: int) -> Any:
        """The mask of a pass behind `shared` tokens. mask [rows, keys]: the rows' own tokens, the newest last."""
        import torch

        index = torch.arange(mask.shape[1], device=self.device)
        see = mask.bool()[:, None] & (index[None] <= index[-positions.shape[1] :, None])
        return masks.additive(self.model, see, positions, positions[:, -1:] - index.flip(0)[None], shared)

    def _shifted(self, pad: list[int]) -> Any:
        """The shared part's cache for each row, moved right by the row's padding."""
        import torch

        cache = caches.new()
        index = torch.arange(len(self._prefix))[None] - torch.tensor(pad)[:, None]
        for number, layer in enumerate(self._cache.layers):
            where = index.clamp(min=0).to(layer.keys.device)
            cache.update(layer.keys[0][:, where].transpose(0, 1), layer.values[0][:, where].transpose(0, 1), number)
        return cache


def chunks(batches: list[list[int]], wanted: set[int]) -> Iterator[list[int]]:
    """What is wanted of each batch, batches kept as planned: a resumed run computes in the same company as a fresh one."""
    for batch in batches:
        if rest := [index for index in batch if index in wanted]:
            yield rest
