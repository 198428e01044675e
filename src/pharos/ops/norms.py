"""Normalisation of each token's features. LayerNorm is torch's own `nn.LayerNorm`."""

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467):
    `x / √(mean(x²) + eps) · weight`. The mean is taken in float32."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)
