import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pharos.ops.attention.fused import fused_attention


def gradients(function: object, dtype: torch.dtype, **options: object) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    qkv = [torch.randn(2, 3, 24, 16, generator=generator).to(dtype) for _ in range(3)]
    leaves = [x.requires_grad_() for x in qkv]
    out = function(*leaves, **options)  # type: ignore[operator]
    assert out.dtype == dtype
    return out, *torch.autograd.grad(out.float().square().sum(), leaves)


@pytest.mark.parametrize("with_matrix", [False, True])
def test_narrow_heads_in_bf16_train_as_in_float32(with_matrix: bool) -> None:
    matrix = torch.rand(2, 1, 1, 24) < 0.7 if with_matrix else None
    exact = gradients(scaled_dot_product_attention, torch.float32, attn_mask=matrix)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(fused_attention, torch.bfloat16, matrix=matrix)
    for got, expected in zip(found, exact, strict=True):
        assert (got.float() - expected).norm() < 0.02 * expected.norm()


def test_without_a_backward_pass_it_is_torchs_kernel_bit_for_bit() -> None:
    q, k, v = torch.randn(3, 2, 3, 24, 16).bfloat16()
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(fused_attention(q, k, v, is_causal=True), expected)
