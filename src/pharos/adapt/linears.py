"""A linear with the parts of adapters: low-rank updates, and bottlenecks behind it.

Shapes: N rows (any number of dimensions), I inputs, O outputs.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pharos.adapt.fast_lora import fast_lora
from pharos.adapt.layers import Adapted, Dequantizes, Part, linear_like, merged_dtype, weight_of
from pharos.adapt.lora import LoraPart


class AdaptedLinear(Adapted):
    """Where all active parts are low-rank pairs and the weight is frozen, one fused pass computes
    them (`fast_lora`); else each part adds to the output in its turn. That is also the way where no
    gradient is wanted and the weight is kept in another form, which its module multiplies faster
    than it can be undone."""

    @property
    def in_features(self) -> int:
        return cast(int, self.base.in_features)

    @property
    def out_features(self) -> int:
        return cast(int, self.base.out_features)

    def adapted(self, x: Tensor) -> Tensor:
        parts = self.active_parts()
        pairs = [part for part in parts if isinstance(part, LoraPart) and part.is_linear_in_x]
        if len(pairs) == len(parts) and self._is_fused:
            bias_O = cast(Tensor | None, self.base.bias)
            return fast_lora(x, self._weight, bias_O, [part.pair for part in pairs])
        return self.with_each(parts, x, self.base(x))

    def with_each(self, parts: Sequence[Part], x: Tensor, y: Tensor) -> Tensor:
        for part in parts:
            y = part(x, y, self.base)
        return y

    @torch.no_grad()
    def with_parts(self) -> nn.Module:
        self.check_mergeable()
        weight_OI = weight_of(self.base, torch.float32).clone()
        for part in self.active_parts():
            assert isinstance(part, LoraPart)
            part.merge_into(weight_OI)
        return linear_like(self.base, weight_OI.to(merged_dtype(self.base)))

    @property
    def _is_fused(self) -> bool:
        is_plain = not isinstance(self.base, Dequantizes)
        is_frozen = not self.base.get_parameter("weight").requires_grad
        return is_frozen and (is_plain or torch.is_grad_enabled())

    def _weight(self, dtype: torch.dtype) -> Tensor:
        return weight_of(self.base, dtype)
