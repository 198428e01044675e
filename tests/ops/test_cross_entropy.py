"""The chunked loss of a language model beside its plain twin.

Shapes: N tokens, D hidden width, V vocabulary.
"""

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pharos.ops.cross_entropy import (
    IGNORED,
    TokenLoss,
    chunked_cross_entropy,
    plain_cross_entropy,
    recomputed_cross_entropy,
)


class Case(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor

    def gradients(self, loss: TokenLoss, scale: float = 1.0) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss.loss_sum * scale, (self.x, self.weight, self.bias))


def case(
    tokens: int = 23,
    vocab: int = 31,
    *,
    seed: int = 0,
    ignored: float = 0.3,
    dtype: torch.dtype = torch.float32,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    labels = torch.randint(vocab, (tokens,), generator=generator)
    is_ignored = torch.rand(tokens, generator=generator) < ignored
    return Case(random(tokens, 8), random(vocab, 8), random(vocab), labels.where(~is_ignored, -100))


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(0, 40),
    vocab=st.integers(1, 50),
    chunk=st.integers(1, 50),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 10),
)
def test_values_and_gradients_equal_the_plain_twins(
    tokens: int, vocab: int, chunk: int, smoothing: float, ignored: float, seed: int
) -> None:
    it = case(tokens, vocab, seed=seed, ignored=ignored, dtype=torch.float64)
    plain = plain_cross_entropy(it.x, it.weight, it.labels, bias=it.bias, label_smoothing=smoothing)
    chunked = chunked_cross_entropy(
        it.x, it.weight, it.labels, bias=it.bias, chunk=chunk, label_smoothing=smoothing
    )
    again = recomputed_cross_entropy(
        lambda x: nn.functional.linear(x, it.weight, it.bias),
        it.x,
        it.labels,
        chunk=chunk,
        label_smoothing=smoothing,
    )
    expected = it.gradients(plain, scale=0.37)
    for loss in (chunked, again):
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(it.gradients(loss, scale=0.37), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_near_to_float32_as_the_twin(dtype: torch.dtype) -> None:
    it = case(64, 200)
    exact = plain_cross_entropy(it.x, it.weight, it.labels, bias=it.bias)
    exact_gradients = it.gradients(exact)
    with torch.autocast("cpu", dtype=dtype):
        losses = [
            plain_cross_entropy(it.x, it.weight, it.labels, bias=it.bias),
            chunked_cross_entropy(it.x, it.weight, it.labels, bias=it.bias, chunk=10),
        ]
    plain, chunked = losses
    assert chunked.loss_sum.dtype == torch.float32
    torch.testing.assert_close(chunked.loss_sum, exact.loss_sum, rtol=1e-2, atol=0)
    for mine, twins, best in zip(
        it.gradients(chunked), it.gradients(plain), exact_gradients, strict=True
    ):
        assert mine.dtype == best.dtype
        assert (mine - best).norm() <= 1.5 * (twins - best).norm() + 1e-3 * best.norm()


def test_small_gradients_survive_float16_before_they_are_scaled() -> None:
    it = case(4, 4096, ignored=0.0)
    quiet = Case((it.x.detach() * 1e-3).requires_grad_(), it.weight, it.bias, it.labels)
    expected = quiet.gradients(plain_cross_entropy(*quiet[:2], quiet.labels, bias=quiet.bias))
    with torch.autocast("cpu", dtype=torch.float16):
        loss = chunked_cross_entropy(*quiet[:2], quiet.labels, bias=quiet.bias)
    for mine, best in zip(quiet.gradients(loss), expected, strict=True):
        torch.testing.assert_close(mine, best, rtol=2e-2, atol=1e-3 * best.abs().max().item())


def test_weights_of_bfloat16_get_gradients_of_bfloat16() -> None:
    it = case(dtype=torch.bfloat16)
    loss = chunked_cross_entropy(it.x, it.weight, it.labels, bias=it.bias, chunk=4)
    assert loss.loss_sum.dtype == torch.float32
    assert {gradient.dtype for gradient in it.gradients(loss)} == {torch.bfloat16}


class Shapes(TorchDispatchMode):
    """Keeps the shape of every tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.seen.add(tuple(result.shape))
        return result


def test_a_frozen_weight_costs_no_gradient() -> None:
    it = case()
    frozen = it.weight.detach()
    plain = plain_cross_entropy(it.x, frozen, it.labels)
    with Shapes() as shapes:
        loss = chunked_cross_entropy(it.x, frozen, it.labels, chunk=4)
        (of_x,) = torch.autograd.grad(loss.loss_sum, it.x)
    assert tuple(frozen.shape) not in shapes.seen
    torch.testing.assert_close(of_x, torch.autograd.grad(plain.loss_sum, it.x)[0])


def test_without_gradients_there_is_nothing_to_keep() -> None:
    it = case()
    with torch.no_grad():
        loss = chunked_cross_entropy(it.x, it.weight, it.labels, chunk=4)
    assert not loss.loss_sum.requires_grad
    torch.testing.assert_close(loss, plain_cross_entropy(it.x, it.weight, it.labels))


def test_a_tied_weight_gets_the_gradients_of_both_its_uses() -> None:
    weight = case().weight
    ids = torch.tensor([3, 1, 4, 1, 5])
    labels = torch.tensor([1, 4, IGNORED, 5, 9])

    def gradient(loss: TokenLoss) -> Tensor:
        return torch.autograd.grad(loss.loss_sum, weight)[0]

    chunked = chunked_cross_entropy(weight[ids].tanh(), weight, labels, chunk=2)
    plain = plain_cross_entropy(weight[ids].tanh(), weight, labels)
    torch.testing.assert_close(gradient(chunked), gradient(plain))


def test_scores_far_from_zero_do_not_overflow() -> None:
    x, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0], [0.5]])
    loss = chunked_cross_entropy(x, weight, torch.tensor([0, 2]), chunk=1)
    assert loss.loss_sum.item() == pytest.approx(5e3)
    assert loss.num_correct.item() == 1


def test_only_targets_count_as_correct() -> None:
    x, weight = torch.eye(3), torch.eye(3)
    loss = chunked_cross_entropy(x, weight, torch.tensor([0, IGNORED, 1]), chunk=2)
    assert loss.num_correct.item() == 1


def test_no_tensor_is_as_large_as_all_logits() -> None:
    it = case(64, 500)
    with Shapes() as shapes:
        it.gradients(chunked_cross_entropy(it.x, it.weight, it.labels, bias=it.bias, chunk=8))
    largest = max(math.prod(shape) for shape in shapes.seen)
    assert largest == max(it.weight.numel(), 8 * 500)


def test_a_second_backward_says_what_is_wrong() -> None:
    it = case()
    loss = chunked_cross_entropy(it.x, it.weight, it.labels)
    loss.loss_sum.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="runs once"):
        loss.loss_sum.backward()


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"x \(2, 3, 4\), weight \(9, 4\), labels \(6,\)"):
        chunked_cross_entropy(torch.ones(2, 3, 4), torch.ones(9, 4), torch.ones(6).long())
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        chunked_cross_entropy(
            torch.ones(6, 4), torch.ones(9, 4), torch.ones(6).long(), label_smoothing=1
        )
