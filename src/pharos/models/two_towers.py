"""Two encoders into one space, where what belongs together lies close: CLIP (Radford et al. 2021,
arXiv:2103.00020) and its kin. A tower is any module that gives vectors `[B, E]`; `TextTower` makes
one of a text model's body. Sentence pairs share one tower (arXiv:1908.10084).

Shapes: B pairs, T tokens, D hidden width, E width of the shared space.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pharos.models.family import Body
from pharos.models.t5 import T5Encoder

Pooling = Literal["mean", "first", "last"]
CLIP_SCALE = 1 / 0.07
SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0
MAX_SCALE = 100.0


class TextTower(nn.Module):
    """A text's vector: the mean over its tokens' states, or the first's (`[CLS]`) or the last's (of
    a decoder, the only one that has seen all), and then a matrix into the shared space unless
    `width` is None."""

    def __init__(
        self, body: Body, *, width: int | None = None, pooling: Pooling = "mean", seed: int = 0
    ) -> None:
        super().__init__()
        self.body, self.pooling = body, pooling
        self.is_decoder = any(shape.is_cached for shape in body.attention_shapes())
        hidden = body.config.hidden_size
        self.projection = None if width is None else nn.Linear(hidden, width, bias=False)
        if self.projection is not None:
            generator = torch.Generator().manual_seed(seed)
            nn.init.normal_(self.projection.weight, std=hidden**-0.5, generator=generator)

    def forward(self, ids: Tensor, valid: Tensor, token_types: Tensor | None = None) -> Tensor:
        """`[B, E]`, of ids `[B, T]` padded at their ends."""
        x_BD = self._pool(self._states(ids, valid, token_types), valid)
        return x_BD if self.projection is None else self.projection(x_BD)

    def _states(self, ids_BT: Tensor, valid_BT: Tensor, types_BT: Tensor | None) -> Tensor:
        if self.is_decoder:
            x_BTD: Tensor = self.body(ids_BT)
        elif isinstance(self.body, T5Encoder):
            x_BTD = self.body(ids_BT, valid_BT)
        else:
            x_BTD = self.body(ids_BT, valid_BT=valid_BT, token_types_BT=types_BT)
        return x_BTD

    def _pool(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        if self.pooling == "mean":
            valid_BT1 = valid_BT[:, :, None]
            return x_BTD.float().where(valid_BT1, 0.0).sum(1) / valid_BT1.sum(1)
        if self.pooling == "first":
            return x_BTD[:, 0]
        return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), valid_BT.sum(1) - 1]


class Pairs(NamedTuple):
    """The vectors of both sides, of length 1: line i of the one belongs to line i of the other."""

    first_BE: Tensor
    second_BE: Tensor


class TwoTowers(nn.Module):
    """`second` is None where both sides go through the same tower. What tells a pair from others is
    `scale · cosine + bias`; both are learned, the scale as its logarithm and never above 100. CLIP
    has no bias and begins with a scale of 1 / 0.07, SigLIP with 10 and a bias of -10."""

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module | None = None,
        *,
        scale: float = CLIP_SCALE,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> Pairs:
        """Each side's inputs by name, as its tower takes them."""
        other = self.first if self.second is None else self.second
        x_BE, y_BE = self.first(**first).float(), other(**second).float()
        return Pairs(normalize(x_BE, dim=-1), normalize(y_BE, dim=-1))

    def scale(self) -> Tensor:
        """`[1]`."""
        at_most = math.log(MAX_SCALE)
        log: Tensor = _AtMost.apply(self.log_scale.float(), at_most)  # type: ignore[no-untyped-call]
        return log.exp()


class _AtMost(torch.autograd.Function):
    """`min(x, most)`, which no gradient pushes further up, and any can pull down again. (A plain
    clamp has no gradient above its bound: what is once beyond stays there.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.most = most
        return x.clamp(max=most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return gradient.where((x < ctx.most) | (gradient > 0), 0.0), None
