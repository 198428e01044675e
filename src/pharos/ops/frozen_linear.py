"""A linear whose weight is not trained, and may be kept in another form than it is multiplied in.

torch keeps the weight that was multiplied until the backward pass: for a quantized weight, or one
that autocast converts, that is a copy in full for every layer. Here it is made anew in the backward
pass, and nothing is kept at all: the gradient of the input needs only the weight.

Shapes: N rows (any number of dimensions), I inputs, O outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

Weight = Callable[[torch.dtype], Tensor]
"""Gives a weight `[O, I]` in the type that it is multiplied in."""


def frozen_linear(x_NI: Tensor, weight: Weight, bias_O: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` in the compute type; gradients flow to `x` and, if it is trained, to the bias."""
    apply: Callable[..., Tensor] = _FrozenLinear.apply
    return apply(x_NI, weight, bias_O, compute_dtype(x_NI))


def plain_frozen_linear(x_NI: Tensor, weight: Weight, bias_O: Tensor | None = None) -> Tensor:
    """The twin, by torch's own derivative."""
    dtype = compute_dtype(x_NI)
    return linear(x_NI.to(dtype), weight(dtype).detach(), converted(bias_O, dtype))


def compute_dtype(x: Tensor) -> torch.dtype:
    """What a linear multiplies in: autocast's type where it is on, else that of the input."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def converted(bias_O: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias_O is None else bias_O.to(dtype)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Weight, bias_O: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        ctx.weight, ctx.dtype, ctx.x_dtype = weight, dtype, x_NI.dtype
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        return linear(x_NI.to(dtype), weight(dtype), converted(bias_O, dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        dx_NI = dbias_O = None
        if ctx.needs_input_grad[0]:
            dx_NI = (dy_NO @ ctx.weight(ctx.dtype)).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            dbias_O = dy_NO.flatten(0, -2).sum(dim=0).to(ctx.bias_dtype)
        return dx_NI, None, dbias_O, None
