"""What turns queries and keys into scores: the same for every backend."""

from typing import NamedTuple

import torch
from torch import Tensor

from pharos.ops.masks import Mask
from pharos.ops.positions import DistanceBias


class Scoring(NamedTuple):
    """A score is `scale · q kᵀ + bias` where `mask` allows it. The keys stand at positions 0
    onwards, the queries at `q_start` onwards."""

    mask: Mask
    bias: DistanceBias | None
    scale: float
    q_start: int

    def positions(self, q_BHTK: Tensor, k_BGSK: Tensor) -> tuple[Tensor, Tensor]:
        """Where the queries `[T]` and the keys `[S]` stand in the sequence."""
        q_T = torch.arange(q_BHTK.shape[2], device=q_BHTK.device) + self.q_start
        return q_T, torch.arange(k_BGSK.shape[2], device=q_BHTK.device)
