"""Norms in blocks: what transformers' own code gives, forward to the last bit and backward within rounding."""

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from emplifai.backends import norms

WIDTH = 256  # a block holds 1,024 rows of it
pytestmark = pytest.mark.usefixtures("one_thread")


def made(family: type, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    module = family(WIDTH, eps=1e-5)
    torch.nn.init.normal_(module.weight)
    return module.to(dtype).requires_grad_(False)


def shaped(layout: str, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(5, 300, 3, WIDTH).to(dtype)
    return x.transpose(1, 2) if layout == "heads first" else x[:, :, 0].contiguous()


def with_gradient(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    out = module(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype))
    return out.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", [LlamaRMSNorm, Gemma3RMSNorm])
@pytest.mark.parametrize("layout", ["rows", "heads first"])
def test_equal_to_their_own_code(family, dtype, layout):
    own, ours, x = made(family, dtype), made(family, dtype), shaped(layout, dtype)
    assert norms.in_blocks(ours) == 1
    with torch.inference_mode():
        assert torch.equal(own(x), ours(x))
    (out, gradient), (our_out, our_gradient) = with_gradient(own, x), with_gradient(ours, x)
    assert torch.equal(out, our_out)
    rounding = 1e-5 if dtype == torch.float32 else 2**-6  # theirs is rounded to bfloat16 halfway
    torch.testing.assert_close(our_gradient, gradient, rtol=rounding, atol=rounding)


def test_a_weight_that_learns_gets_its_gradient():
    own, ours, x = made(Gemma3RMSNorm, torch.float32), made(Gemma3RMSNorm, torch.float32), shaped("rows", torch.float32)
    norms.in_blocks(ours)
    for module in (own.requires_grad_(), ours.requires_grad_()):
        with_gradient(module, x)
    assert own.weight.grad.any() and torch.equal(own.weight.grad, ours.weight.grad)


def test_another_formula_stays_as_it_is():
    class HalfRMSNorm(LlamaRMSNorm):
        def forward(self, x):
            return super().forward(x) / 2

    without_weight = torch.nn.RMSNorm(WIDTH, elementwise_affine=False)
    for module in (made(HalfRMSNorm, torch.float32), torch.nn.LayerNorm(WIDTH), torch.nn.RMSNorm(WIDTH), without_weight):
        assert norms.in_blocks(module) == 0 and "forward" not in vars(module)
