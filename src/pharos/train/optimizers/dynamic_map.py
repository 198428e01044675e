"""Numbers in 8 bits, a block at a time (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
Quantization", arXiv:2110.02861).

A block of 256 numbers is divided by its largest magnitude, and each is replaced by the nearest of
256 values. The values are a *dynamic* map: how many decades a value lies below 1 is written in
unary, and the bits that are left divide the decade evenly. So there are seven decades, the highest
of which has half of all values: near the largest number errors are small, and one that is a million
times smaller is still told from zero.

Shapes: N blocks, C = 256 numbers in each.
"""

from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 256
NUM_DECADES = 7


def dynamic_map(*, signed: bool) -> Tensor:
    """The 256 values, ascending, in float32: from -0.993 to 1, or from 0 to 1."""
    finest = 7 if signed else 8  # bits for a magnitude
    magnitudes = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for decade in range(NUM_DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (finest - 1 - decade) + 1, dtype=torch.float64)
        magnitudes.append((edges[:-1] + edges[1:]) / 2 * 10.0**-decade)
    if signed:
        magnitudes += [-values for values in magnitudes[1:]]
    return torch.cat(magnitudes).sort().values.float()


@lru_cache
def _values(device: torch.device, signed: bool) -> Tensor:
    return dynamic_map(signed=signed).to(device)


@lru_cache
def _lookup(device: torch.device, signed: bool) -> tuple[Tensor, Tensor]:
    """By the upper 16 bits of a float32, the code of the lowest number that begins with them; and
    by code, above which number the next one is nearer.

    Numbers that begin alike differ by less than two values of the map do, so of the lowest one's
    code and the next, one is right.
    """
    values = dynamic_map(signed=signed)
    midpoints = (values[:-1] + values[1:]) / 2
    beginnings = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    rest = torch.where(beginnings < 0, 2**16 - 1, 0).int()  # that makes a negative number lowest
    lowest = ((beginnings << 16) | rest).view(torch.float32)
    codes = torch.bucketize(lowest, midpoints, out_int32=True)
    limits = torch.cat((midpoints, torch.tensor([torch.inf])))
    return codes.to(device), limits.to(device)


def quantize(x_NC: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes `[N, C]` in uint8, and the scale of each block `[N, 1]`. Where there is a NaN or an
    infinity, the scale tells: such a block does not come back as numbers."""
    codes_of, limits = _lookup(x_NC.device, signed)
    scale_N1 = x_NC.abs().amax(dim=1, keepdim=True)
    unit = (x_NC / scale_N1.clamp(min=torch.finfo(torch.float32).tiny)).flatten()
    codes = codes_of.index_select(0, (unit.view(torch.int32) >> 16).add_(2**15))
    codes += unit > limits.index_select(0, codes)
    return codes.to(torch.uint8).view(x_NC.shape), scale_N1


def quantize_plain(x_NC: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """As `quantize`, by comparing each number with each value: in memory that is 256 times that of
    the numbers."""
    scale_N1 = x_NC.abs().amax(dim=1, keepdim=True)
    unit_NC = torch.where(scale_N1 > 0, x_NC / scale_N1, 0.0)
    distances_NCV = (unit_NC[..., None] - dynamic_map(signed=signed).to(x_NC.device)).abs()
    return distances_NCV.argmin(dim=-1).to(torch.uint8), scale_N1


def dequantize(codes_NC: Tensor, scale_N1: Tensor, *, signed: bool) -> Tensor:
    """In float32."""
    values = _values(codes_NC.device, signed)
    return values.index_select(0, codes_NC.flatten().int()).view(codes_NC.shape).mul_(scale_N1)
