"""RMS norms on a processor, in blocks of rows that stay in its cache.

transformers computes a norm (Zhang and Sennrich 2019, arXiv 1910.07467) as a handful of operations, each a pass over all rows
through memory, and training keeps what each of them wrote. Here a block of rows goes through all of them before the next, and
the way back starts from the input. On the way forward the numbers are the same to the last bit. (In bfloat16, one thread: 23,000
rows of 640 took 51 ms and take 17, with the way back 150 and 52.)
"""

from functools import cache, partial
from typing import Any

NUMBERS = 1 << 18  # in a block: 1 MB of float32


def in_blocks(model: Any) -> int:
    """Let the norms of a model on a processor compute in blocks; return how many do.

    Only those for which it gives what their own code gives, tried on random rows; the others stay as they are.
    """
    found = 0
    for module in model.modules():
        formula = _formula(module)
        if formula and _agrees(module, formula):
            module.forward, found = partial(_forward, module, formula), found + 1
    return found


def _formula(module: Any) -> Any:
    """How the norm of a family multiplies with its weight; None: no such norm, or on a GPU, where others have kernels."""
    if not type(module).__name__.endswith("RMSNorm") or getattr(module, "weight", None) is None:
        return None
    if module.weight.device.type != "cpu" or hasattr(module, "_hf_hook"):  # accelerate moves the inputs of such a module
        return None
    return _gemma if getattr(module, "eps", None) else _llama if hasattr(module, "variance_epsilon") else None


def _agrees(module: Any, formula: Any) -> bool:
    import torch

    weight = module.weight
    rows = torch.randn(3, 5, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with torch.no_grad():
        return torch.equal(type(module).forward(module, rows), formula(module, rows))


def _forward(module: Any, formula: Any, x: Any) -> Any:
    import torch

    if x.dtype != module.weight.dtype or (torch.is_grad_enabled() and module.weight.requires_grad):
        return type(module).forward(module, x)  # ours was tried in the weight's dtype, and gives no gradient of the weight
    return formula(module, x)


def _gemma(module: Any, x: Any) -> Any:
    return norm(x, 1.0 + module.weight.float(), module.eps)


def _llama(module: Any, x: Any) -> Any:
    return norm(x, module.weight, module.variance_epsilon)


def norm(x: Any, scale: Any, eps: float) -> Any:
    """x / sqrt(mean(x ** 2) + eps) * scale, rounded to the dtype of x before the product where `scale` is of that dtype and after
    it where `scale` is float32. x [..., width]; gradient of x alone: `scale` is frozen."""
    import torch

    swapped = x.dim() == 4 and not x.is_contiguous()  # heads before tokens, but not in memory: to take rows would copy
    if swapped:
        x = x.transpose(1, 2)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and x.requires_grad:
        out = _function().apply(rows, scale, eps)
    else:
        out, _ = _normed(rows, scale, eps)
    out = out.view(x.shape)
    return out.transpose(1, 2) if swapped else out


def _normed(rows: Any, scale: Any, eps: float) -> tuple[Any, Any]:
    """The norm of rows [rows, width], and what each was multiplied with before `scale` [rows, 1]."""
    import torch

    out, roots = torch.empty_like(rows), rows.new_empty(len(rows), 1, dtype=torch.float32)
    for part in _blocks(rows):
        block, into = rows[part].float(), out[part]
        torch.rsqrt(block.pow(2).mean(-1, keepdim=True).add_(eps), out=roots[part])
        if rows.dtype == torch.float32:
            torch.mul(block, roots[part], out=into).mul_(scale)
        elif scale.dtype == torch.float32:
            into.copy_(block.mul_(roots[part]).mul_(scale))
        else:
            into.copy_(block.mul_(roots[part])).mul_(scale)
    return out, roots


@cache
def _function() -> Any:
    import torch

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows, scale, eps):
            out, roots = _normed(rows, scale, eps)
            ctx.save_for_backward(rows, roots, scale)
            return out

        @staticmethod
        def backward(ctx, gradient):
            rows, roots, scale = ctx.saved_tensors
            out = torch.empty_like(rows)
            for part in _blocks(rows):
                block, root = rows[part].float(), roots[part]
                scaled = gradient[part].float() * scale
                along = torch.linalg.vecdot(scaled, block)[:, None].mul_(root.pow(2)).div_(block.shape[-1])
                out[part] = scaled.addcmul_(block, along, value=-1).mul_(root)
            return out, None, None

    return Norm


def _blocks(rows: Any) -> list[slice]:
    size = max(1, NUMBERS // rows.shape[-1])
    return [slice(start, start + size) for start in range(0, len(rows), size)]
