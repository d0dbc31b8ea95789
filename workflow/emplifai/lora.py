"""A frozen linear layer with its LoRA adapter as one operation (Hu et al. 2022, arXiv 2106.09685).

peft adds the adapter's output to the layer's, scaled, in tensors of their own, and casts the layer's input to the adapter's
dtype and back. Here the small product is added in place to the large one, forward and backward, and each input is kept once.
"""

from functools import cache, partial
from typing import Any


def fuse(model: Any) -> int:
    """Let each plain LoRA layer of a model compute as one operation; return how many do. Others stay with peft.

    Plain: one adapter without dropout on an unquantized torch.nn.Linear. Weights and their names stay as they are.
    """
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    import torch

    base, names = layer.base_layer, layer.active_adapters
    return (
        type(base) is torch.nn.Linear
        and not hasattr(base, "_hf_hook")  # accelerate moves the inputs of such a layer between devices
        and not base.weight.requires_grad
        and len(names) == 1
        and set(layer.lora_A) == set(names)
        and not layer.lora_variant
        and not layer.merged
        and isinstance(layer.lora_dropout[names[0]], torch.nn.Identity)
        and layer.lora_A[names[0]].bias is None
        and layer.lora_B[names[0]].bias is None
    )


def _forward(layer: Any, x: Any) -> Any:
    (name,) = layer.active_adapters
    base = layer.base_layer
    return linear(x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])


def linear(x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> Any:
    """x W' + bias + scaling x A' B', with gradients of x, A and B. x [..., in], weight [out, in], a [rank, in], b [out, rank].

    Computes in the dtype of the frozen weight; the adapter's gradients are in its own.
    """
    return _function().apply(x, weight, bias, a, b, scaling)


@cache
def _function() -> Any:
    import torch

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, a, b, scaling):
            rows, down, up = x.reshape(-1, x.shape[-1]).to(weight.dtype), a.to(weight.dtype), (b * scaling).to(weight.dtype)
            low = rows @ down.T
            out = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
            out.addmm_(low, up.T)
            ctx.save_for_backward(rows, low, down, up, weight)
            ctx.like, ctx.shape, ctx.scaling = (x.dtype, a.dtype, b.dtype), x.shape, scaling
            return out.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx, gradient):
            rows, low, down, up, weight = ctx.saved_tensors
            gradient = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
            small, of_x = gradient @ up, None
            if ctx.needs_input_grad[0]:
                of_x = (gradient @ weight).addmm_(small, down).to(ctx.like[0]).view(ctx.shape)
            of_a, of_b = (small.T @ rows).to(ctx.like[1]), (gradient.T @ low).to(ctx.like[2]).mul_(ctx.scaling)
            return of_x, None, None, of_a, of_b, None

    return Linear
