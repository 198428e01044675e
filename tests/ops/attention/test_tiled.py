"""What the tiles promise beside the right numbers: memory that grows with the length, work that
falls with the mask's density, gradients that are exact."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pharos.ops.attention import attention
from pharos.ops.masks import BlockTable, Causal, Documents, Full, Global, Mask, Window
from pharos.ops.positions import Alibi, DistanceBias

LENGTH = 2048


class Watch(TorchDispatchMode):
    """Keeps the size of the largest tensor that was made, and how many products of scores."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.scores = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        if func is torch.ops.aten.bmm.out:
            self.scores += result.numel()
        return result


def watch(mask: Mask, *, bias: DistanceBias | None = None, backward: bool = True) -> Watch:
    inputs = [torch.randn(1, 2, LENGTH, 8, requires_grad=True) for _ in range(3)]
    if bias is not None:
        bias = DistanceBias(bias.values_HR.requires_grad_(), bias.zero)
    with Watch() as seen:
        out = attention(*inputs, mask=mask, bias=bias, backend="tiled")
        if backward:
            out.sum().backward()
    return seen


@pytest.mark.parametrize(
    "mask", [Full(), Causal(), Causal() & Documents(torch.arange(LENGTH)[None] // 300)], ids=repr
)
def test_no_tensor_is_near_the_square_of_the_length(mask: Mask) -> None:
    assert watch(mask, bias=Alibi(2).bias(LENGTH)).largest < LENGTH**2 / 8


def test_the_plain_twin_does_hold_the_square() -> None:
    q = k = v = torch.randn(1, 1, LENGTH, 8)
    with Watch() as seen:
        attention(q, k, v, backend="plain")
    assert seen.largest >= LENGTH**2


def _every_so_many(apart: int) -> BlockTable:
    table = torch.eye(LENGTH // 128, dtype=torch.bool)
    table[::apart] = True
    return BlockTable(128, table[None])


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        (Causal(), 0.6),
        (Causal() & Window(128), 0.2),
        (Causal() & Documents(torch.arange(LENGTH)[None] // 256), 0.15),
        (Window(32, 32) | Global(torch.arange(LENGTH)[None] < 1), 0.4),
        (_every_so_many(8), 0.35),
    ],
    ids=["causal", "window", "documents", "longformer", "blocks"],
)
def test_the_work_falls_with_the_density_of_the_mask(mask: Mask, most: float) -> None:
    scores = watch(mask, backward=False).scores
    here = torch.arange(LENGTH)
    assert mask.allows(here, here).sum() * 2 <= scores <= most * 2 * LENGTH**2


def test_sequences_and_heads_skip_tiles_on_their_own() -> None:
    """The first of two sequences is one document, the second is many."""
    ids_BT = torch.stack((torch.zeros(LENGTH), torch.arange(LENGTH) // 256))
    q = k = v = torch.randn(2, 1, LENGTH, 8)
    with Watch() as seen:
        attention(q, k, v, mask=Documents(ids_BT), backend="tiled")
    assert seen.scores <= 1.2 * LENGTH**2


@pytest.mark.parametrize("learn", [False, True], ids=["q, k, v", "and the bias"])
def test_gradients_are_those_of_finite_differences(learn: bool) -> None:
    q_BHTK = torch.randn(1, 4, 7, 3, dtype=torch.float64, requires_grad=True)
    k_BGSK, v_BGSK = torch.randn(2, 1, 2, 9, 3, dtype=torch.float64, requires_grad=True)
    values_HR = torch.randn(4, 17, dtype=torch.float64, requires_grad=learn)

    def call(q: Tensor, k: Tensor, v: Tensor, values: Tensor) -> Tensor:
        bias = DistanceBias(values, 8)
        return attention(q, k, v, mask=Causal() & Window(4), bias=bias, backend="tiled")

    inputs = (q_BHTK, *(x.detach().requires_grad_() for x in (k_BGSK, v_BGSK)), values_HR)
    check: Callable[..., bool] = torch.autograd.gradcheck
    assert check(call, inputs)


def test_long_biases_meet_no_denormal_numbers() -> None:
    """e^-100 times a value is denormal, and a processor takes a hundred times as long over it."""
    q = k = torch.zeros(1, 1, 600, 8)
    bias = DistanceBias(-torch.arange(599, -600, -1).abs()[None].float(), 599)
    out = attention(q, k, torch.full_like(k, 1e-6), bias=bias, backend="tiled")
    assert math.isclose(out.min().item(), 1e-6, rel_tol=1e-5)
