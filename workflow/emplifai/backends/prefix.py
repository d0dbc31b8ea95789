"""Attention to a beginning that all rows of a batch share: its keys and values exist once and are read once a step.

A row attends to the beginning and to its own tokens apart; the two results are weighed by their sums of exp, as Hydragen does
(Juravsky et al. 2024, arXiv 2402.05099), so that the queries of all rows meet the beginning in one product. On a processor
only: there PyTorch gives those sums. (256 rows behind 436 shared tokens, Gemma 3 270M, bfloat16, one thread: 25 ms a layer
and step where each row has the keys, 5 so.)
"""

from typing import Any

from emplifai.backends import masks

NAME = "shared_prefix"


def install(model: Any) -> bool:
    """Let a model's attention know tensors of keys with an attribute `prefix`; False where it cannot."""
    config = model.config.get_text_config()
    if config._attn_implementation == NAME:
        return True
    on_cpu = {p.device.type for p in model.parameters()} == {"cpu"}
    if not on_cpu or config._attn_implementation != "sdpa" or not masks.suffice(model):
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any):
    """transformers' attention: query [rows, heads, queries, size], key and value [rows, key heads, keys, size], and with them
    `key.prefix`, the keys and values [1, key heads, shared, size] before; returns [rows, queries, heads, size] and None."""
    import torch

    shared = getattr(key, "prefix", None)
    if shared is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    rows, heads, queries, size = query.shape
    key_heads, own = key.shape[1], key.shape[2]
    group = heads // key_heads  # so many heads share keys: for these they are further queries
    grouped = query.reshape(rows, key_heads, group * queries, size)
    mask = attention_mask.expand(-1, group, -1, -1).reshape(rows, 1, group * queries, -1)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    here, here_sum = flash(grouped, key, value, attn_mask=mask[..., -own:], scale=scaling)
    together = grouped.transpose(0, 1).reshape(1, key_heads, -1, size)
    seen = mask[..., :-own].reshape(1, 1, rows * group * queries, -1) if mask.shape[-1] > own else None
    before, before_sum = flash(together, *shared, attn_mask=seen, scale=scaling)
    before = before.view(key_heads, rows, -1, size).transpose(0, 1)
    before_sum = before_sum.reshape(key_heads, rows, -1).transpose(0, 1)
    weight = torch.sigmoid(before_sum - here_sum)[..., None].to(query.dtype)
    out = torch.lerp(here, before, weight).view(rows, heads, queries, size)
    return out.transpose(1, 2).contiguous(), None
