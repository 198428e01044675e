"""The fused pass beside its twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pharos.adapt.fast_lora import LowRank, fast_lora, plain_lora
from pharos.ops.frozen_linear import frozen_linear, plain_frozen_linear
from pharos.quant import Nf4Linear

torch.set_num_threads(1)


class Case:
    """A linear of 3 × `size` outputs, and pairs on some thirds of them."""

    def __init__(self, size: int, thirds: list[int], rank: int, *, trains_bias: bool) -> None:
        torch.manual_seed(size)
        self.linear = nn.Linear(7, 3 * size).double()
        self.linear.bias.requires_grad_(trains_bias)
        self.x = torch.randn(2, 5, 7).double().requires_grad_()
        self.pairs = [
            LowRank(
                torch.randn(rank, 7).double().requires_grad_(),
                torch.randn(size, rank).double().requires_grad_(),
                0.5 + third,
                slice(third * size, (third + 1) * size),
            )
            for third in thirds
        ]

    def weight(self, dtype: torch.dtype) -> Tensor:
        return self.linear.weight.detach().to(dtype)

    def outcome(self, compute: type | object) -> list[Tensor]:
        """The output, and every gradient."""
        y: Tensor = compute(self.x, self.weight, self.linear.bias, self.pairs)  # type: ignore[operator]
        trained = [self.x, *(factor for pair in self.pairs for factor in pair[:2])]
        trained += [self.linear.bias] if self.linear.bias.requires_grad else []
        return [y, *torch.autograd.grad((y * y.detach().cos()).sum(), trained)]


@given(
    size=st.integers(1, 5),
    thirds=st.lists(st.integers(0, 2), max_size=4),
    rank=st.integers(1, 3),
    trains_bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_output_and_gradients_equal_the_twins(
    size: int, thirds: list[int], rank: int, trains_bias: bool
) -> None:
    case = Case(size, thirds, rank, trains_bias=trains_bias)
    for ours, plain in zip(case.outcome(fast_lora), case.outcome(plain_lora), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_the_derivative_is_that_of_finite_differences() -> None:
    case = Case(2, [0, 2], 2, trains_bias=True)
    factors = [factor for pair in case.pairs for factor in pair[:2]]

    def compute(x: Tensor, bias: Tensor, *factors: Tensor) -> Tensor:
        pairs = [
            LowRank(a, b, pair.scale, pair.rows)
            for pair, a, b in zip(case.pairs, factors[::2], factors[1::2], strict=True)
        ]
        return fast_lora(x, case.weight, bias, pairs)

    assert torch.autograd.gradcheck(compute, (case.x, case.linear.bias, *factors))


@pytest.mark.parametrize("cast", [False, True])
def test_nothing_is_kept_of_the_frozen_path_but_the_input(cast: bool) -> None:
    layer = Nf4Linear(nn.Linear(64, 64))
    x = torch.randn(8, 64, requires_grad=True)
    a, b = (nn.Parameter(torch.randn(shape)) for shape in [(2, 64), (64, 2)])
    kept: list[Tensor] = []
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        y = fast_lora(x, layer.dequantize, layer.bias, [LowRank(a, b, 1.0, slice(0, 64))])
    assert y.dtype == (torch.bfloat16 if cast else torch.float32)
    assert {id(tensor) for tensor in kept} == {id(x), id(a), id(b)}


@pytest.mark.parametrize("cast", [False, True])
def test_a_frozen_linear_equals_its_twin(cast: bool) -> None:
    layer = Nf4Linear(nn.Linear(33, 6))
    outcomes = []
    for compute in (frozen_linear, plain_frozen_linear):
        x = torch.randn(4, 33, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            y = compute(x, layer.dequantize, layer.bias)
        y.float().square().sum().backward()
        outcomes.append((y, x.grad, layer.bias.grad))
        layer.bias.grad = None
    for ours, plain in zip(*outcomes, strict=True):
        assert ours.dtype == plain.dtype
        torch.testing.assert_close(ours, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_in_bfloat16_output_and_gradients_equal_the_twins() -> None:
    layer = Nf4Linear(nn.Linear(256, 96)).cuda()
    torch.manual_seed(0)
    x = torch.randn(3, 40, 256, device="cuda", requires_grad=True)
    a, b = torch.randn(8, 256, device="cuda") / 16, torch.randn(96, 8, device="cuda")
    factors = [a.requires_grad_(), b.requires_grad_()]
    outcomes = []
    for compute in (fast_lora, plain_lora):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = compute(x, layer.dequantize, layer.bias, [LowRank(a, b, 2.0, slice(0, 96))])
        loss = (y.float() * y.float().detach().cos()).sum()
        outcomes.append([y, *torch.autograd.grad(loss, [x, *factors])])
    for ours, plain in zip(*outcomes, strict=True):
        assert ours.dtype == plain.dtype
        assert (ours - plain).float().norm() < 0.02 * plain.float().norm()
