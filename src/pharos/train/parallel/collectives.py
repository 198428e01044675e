"""Sending within a forward pass, with what has to be sent back in the backward pass."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class _SummedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


def summed_gradient(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """`x`, which all ranks of the group have alike and each uses for a part of the result: its
    gradient is the sum of theirs."""
    y: Tensor = _SummedGradient.apply(x, group)  # type: ignore[no-untyped-call]
    return y


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        sent: Sequence[int],
        received: Sequence[int],
        group: dist.ProcessGroup,
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return exchange_plain(x, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        back = exchange_plain(gradient, ctx.received, ctx.sent, ctx.group)
        return back, None, None, None


def exchange(
    x: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
) -> Tensor:
    """Rows to the ranks of the group, `sent[r]` of them to rank r in order; what came, in the
    order of the ranks it came from. Gradients go back the same way."""
    y: Tensor = _Exchange.apply(x, sent, received, group)  # type: ignore[no-untyped-call]
    return y


def exchange_plain(
    x: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
) -> Tensor:
    """The same without a gradient."""
    y = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(y, x.contiguous(), list(received), list(sent), group=group)
    return y
