"""Attention masks of our own: what each token sees, layers with a sliding window included."""

from typing import Any


def suffice(model: Any) -> bool:
    """Whether all layers are plain attention, so that a mask of our own says all."""
    types = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    flash = "flash" in str(getattr(model.config, "_attn_implementation", ""))
    return set(types) <= {"full_attention", "sliding_attention"} and not flash


def additive(model: Any, see: Any, at: Any, before: Any, shared: int = 0) -> Any:
    """The mask as the model wants it: [rows, 1, queries, keys], or one for each type of layer.

    see [rows, queries, keys]: what may be seen at all; at [rows, queries] and before [rows, keys]: places of tokens in their
    texts, for the layers with a sliding window. shared: so many tokens at the beginning of each text are keys too, seen by all
    (prefix.py); their columns come first, and only where a window hides some of them.
    """
    import torch

    config = model.config.get_text_config()
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    low = torch.finfo(model.dtype).min

    def made(seen: Any) -> Any:
        return torch.where(seen, 0.0, low).to(model.dtype)[:, None]

    sliding = None
    if window:
        near = see & (at[:, :, None] - before[:, None] < window)
        if shared and int(at.max()) >= window:
            beginning = at[:, :, None] - torch.arange(shared, device=at.device) < window
            near = torch.cat([beginning, near], 2)
        sliding = made(near)
    if types and len(set(types)) > 1:
        return {"full_attention": made(see), "sliding_attention": sliding}
    if sliding is not None and (types is None or types[0] == "sliding_attention"):
        return sliding
    return made(see)
