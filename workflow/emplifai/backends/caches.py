"""A cache of keys and values with room for the tokens to come: a step writes one token and copies nothing."""

from collections.abc import Sequence
from functools import cache
from typing import Any

ROOM = 64  # tokens; a cache grows by so many at once


def new(room: int = ROOM) -> Any:
    """An empty cache, all of whose layers keep all positions. room 0: for what gets no token after it."""
    from transformers import DynamicCache

    made = DynamicCache()  # without a config: one kind of layer for all
    if room:
        made.layer_class_to_replicate = _layer()
    return made


def behind(beginning: Any) -> Any:
    """An empty cache for rows that all follow on a beginning, the one row of another cache (prefix.py)."""
    from transformers import DynamicCache

    made = DynamicCache()
    made.layers = [_layer()((layer.keys, layer.values)) for layer in beginning.layers]
    return made


def shared(cache: Any) -> int:
    """How many tokens the rows of a cache share, besides what it holds of each."""
    prefix = getattr(cache.layers[0], "prefix", None) if cache.layers else None
    return prefix[0].shape[-2] if prefix else 0


def remaining(stay: Sequence[int]) -> list[int]:
    """The rows that stay, the last ones in the places of those that leave: few rows move."""
    kept = set(stay)
    late = [k for k in stay if k >= len(stay)]
    return [k if k in kept else late.pop() for k in range(len(stay))]


@cache
def _layer() -> type:
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):
        """keys, values [rows, heads, tokens, size] are views of larger tensors; prefix: keys, values of what stands before."""

        def __init__(self, prefix=None):
            super().__init__()
            self.prefix = prefix

        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.rooms = [key_states[:, :, :0], value_states[:, :, :0]]
            start = self.get_seq_length()
            self.rooms = [_written(room, new, start) for room, new in zip(self.rooms, (key_states, value_states), strict=True)]
            return self._show(start + key_states.shape[-2])

        def batch_select_indices(self, indices):
            """Where row k stays row k, nothing is copied."""
            indices = indices.to(self.keys.device)  # layers of one model may lie on several GPUs
            place = indices.new_tensor(range(len(indices)))
            moved = place[indices != place]
            for room in self.rooms:
                room[moved] = room[indices[moved]]
            self.rooms = [room[: len(indices)] for room in self.rooms]
            self._show(self.get_seq_length())

        def _show(self, length):
            self.keys, self.values = (room[:, :, :length] for room in self.rooms)
            self.keys.prefix = self.prefix
            return self.keys, self.values

    return Roomy


def _written(room: Any, new: Any, start: int) -> Any:
    """The tensor with `new` from position `start` on; a larger one where it does not fit."""
    end = start + new.shape[-2]
    if end > room.shape[-2]:
        old, room = room, new.new_empty(*new.shape[:2], end + ROOM, new.shape[3])
        room[:, :, :start] = old[:, :, :start]
    room[:, :, start:end] = new
    return room
