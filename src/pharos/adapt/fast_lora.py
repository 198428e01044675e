"""LoRA's forward and backward pass in one, derived by hand.

    y = x Wᵀ + b + Σ s·(x Aᵀ) Bᵀ

Of the frozen path torch's own derivative keeps the weight as it was multiplied (a copy of it, if
autocast or four bits stand before), and of the other one x Aᵀ and the scaled sum. Here the input is
kept, and nothing else: W is made anew and x Aᵀ multiplied again, which costs r / O of the forward
pass. With dy the gradient of the output:

    dx = dy W + Σ s·(dy B) A        dA = s·(dy B)ᵀ x        dB = s·dyᵀ (x Aᵀ)

Several low-rank pairs may share the linear, each with its rows of the output.

Shapes: N rows, I inputs, O outputs, R rank.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from pharos.ops.frozen_linear import Weight, compute_dtype, converted, plain_frozen_linear


class LowRank(NamedTuple):
    """s·B·A on some rows of the output."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float
    rows: slice


def fast_lora(
    x_NI: Tensor, weight: Weight, bias_O: Tensor | None, pairs: Sequence[LowRank]
) -> Tensor:
    """Gradients flow to the input, to A and B, and to the bias if it is trained."""
    factors = [factor for pair in pairs for factor in (pair.a_RI, pair.b_OR)]
    places = [(pair.scale, pair.rows) for pair in pairs]
    apply: Callable[..., Tensor] = _FastLora.apply
    return apply(x_NI, weight, bias_O, compute_dtype(x_NI), places, *factors)


def plain_lora(
    x_NI: Tensor, weight: Weight, bias_O: Tensor | None, pairs: Sequence[LowRank]
) -> Tensor:
    """The twin, by torch's own derivative."""
    y_NO = plain_frozen_linear(x_NI, weight, bias_O)
    for pair in pairs:
        y_NO = add_rows(y_NO, low_rank(x_NI.to(y_NO.dtype), pair), pair.rows)
    return y_NO


def low_rank(x_NI: Tensor, pair: LowRank) -> Tensor:
    """s·(x Aᵀ) Bᵀ."""
    return linear(linear(x_NI, pair.a_RI.to(x_NI.dtype)), pair.b_OR.to(x_NI.dtype)) * pair.scale


def add_rows(y_NO: Tensor, added: Tensor, rows: slice) -> Tensor:
    """`y` with something added to some of its outputs."""
    return y_NO + pad(added, (rows.start, y_NO.shape[-1] - rows.stop))


class _FastLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight: Weight,
        bias_O: Tensor | None,
        dtype: torch.dtype,
        places: Sequence[tuple[float, slice]],
        *factors: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x_NI, *factors)
        ctx.weight, ctx.dtype, ctx.places = weight, dtype, places
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        x_NI = x_NI.to(dtype)
        y_NO = linear(x_NI, weight(dtype), converted(bias_O, dtype))
        for (scale, rows), a_RI, b_OR in _pairs(places, factors):
            y_NO[..., rows].add_((x_NI @ a_RI.to(dtype).T) @ b_OR.to(dtype).T, alpha=scale)
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        dtype, needs_dx = ctx.dtype, ctx.needs_input_grad[0]
        x_NI = x.to(dtype).flatten(0, -2)
        dy_NO = dy_NO.to(dtype).flatten(0, -2)
        dx_NI = dy_NO @ ctx.weight(dtype) if needs_dx else None
        gradients = []
        for (scale, rows), a_RI, b_OR in _pairs(ctx.places, factors):
            d_NO = dy_NO[:, rows]
            d_NR = (d_NO @ b_OR.to(dtype)).mul_(scale)
            gradients.append((d_NR.T @ x_NI).to(a_RI.dtype))
            gradients.append((d_NO.T @ (x_NI @ a_RI.to(dtype).T)).mul_(scale).to(b_OR.dtype))
            if dx_NI is not None:
                dx_NI += d_NR @ a_RI.to(dtype)  # in bf16 on a CPU, addmm_ takes four times as long
        dx = None if dx_NI is None else dx_NI.view(x.shape).to(x.dtype)
        dbias_O = dy_NO.sum(dim=0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return dx, None, dbias_O, None, None, *gradients


def _pairs(
    places: Sequence[tuple[float, slice]], factors: Sequence[Tensor]
) -> list[tuple[tuple[float, slice], Tensor, Tensor]]:
    return list(zip(places, factors[::2], factors[1::2], strict=True))
