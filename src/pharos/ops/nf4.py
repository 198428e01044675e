"""NF4, four bits a weight (Dettmers et al. 2023, QLoRA, arXiv:2305.14314).

Weights are taken 64 at a time, divided by the largest magnitude among them, and rounded to the
nearest of 16 codes, which are quantiles of the normal distribution: each is met about equally
often. Two codes share a byte, the first in the high half. The magnitudes are quantized too ("double
quantization"): their mean is taken off, then 256 at a time go to eight bits. That is
4 + 8/64 + 32/(64·256) = 4.127 bits a weight.

Codes, order and rounding are those of bitsandbytes, so its files can be read, and it reads ours.

Shapes: W weights, P bytes (half as many, rounded up), K blocks of 64 weights, M groups of 256
blocks.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64
GROUP = 256
SMALLEST = 1e-38

CODES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class Magnitudes(NamedTuple):
    """The blocks' largest magnitudes, in eight bits."""

    codes_K: Tensor
    scale_M: Tensor
    mean: Tensor


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes `[P]`, and the largest magnitude of each block `[K]` in float32. The last block may be
    shorter."""
    values_W = weight.detach().reshape(-1).float()
    rows_K64 = torch.nn.functional.pad(values_W, (0, -len(values_W) % BLOCK)).view(-1, BLOCK)
    absmax_K = rows_K64.abs().amax(dim=1)
    scaled_W = (rows_K64 * _reciprocal(absmax_K)[:, None]).view(-1)[: len(values_W)]
    codes_W = torch.bucketize(scaled_W, _midpoints(nf4_codes(weight.device))).to(torch.uint8)
    codes_W = torch.nn.functional.pad(codes_W, (0, len(codes_W) % 2), value=CODES.index(0.0))
    return codes_W[::2] << 4 | codes_W[1::2], absmax_K


def dequantize_nf4(
    packed_P: Tensor, absmax_K: Tensor, shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """The weights in `dtype`, computed in float32. A byte is looked up as the pair that it is."""
    pairs_P2 = _pairs(packed_P.device).index_select(0, packed_P.int())
    return _scaled(pairs_P2.view(-1), absmax_K, shape, dtype)


def plain_dequantize_nf4(
    packed_P: Tensor, absmax_K: Tensor, shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """The twin, half byte by half byte."""
    halves_P2 = torch.stack([packed_P >> 4, packed_P & 15], dim=1)
    values_W = nf4_codes(packed_P.device)[halves_P2.long()].view(-1)
    return _scaled(values_W, absmax_K, shape, dtype)


def quantize_magnitudes(absmax_K: Tensor) -> Magnitudes:
    mean = absmax_K.mean()
    rest_K = absmax_K - mean
    rows_MG = torch.nn.functional.pad(rest_K, (0, -len(rest_K) % GROUP)).view(-1, GROUP)
    scale_M = rows_MG.abs().amax(dim=1)
    scaled_K = (rows_MG * _reciprocal(scale_M)[:, None]).view(-1)[: len(rest_K)]
    codes_K = torch.bucketize(scaled_K, _midpoints(byte_codes(absmax_K.device)))
    return Magnitudes(codes_K.to(torch.uint8), scale_M, mean)


def dequantize_magnitudes(magnitudes: Magnitudes) -> Tensor:
    """`[K]` in float32."""
    codes_K = magnitudes.codes_K
    values_K = byte_codes(codes_K.device).index_select(0, codes_K.int())
    scale_K = magnitudes.scale_M.repeat_interleave(GROUP)[: len(values_K)]
    return values_K * scale_K + magnitudes.mean


@cache
def nf4_codes(device: torch.device) -> Tensor:
    return torch.tensor(CODES, device=device)


@cache
def byte_codes(device: torch.device) -> Tensor:
    """The 256 values of the dynamic eight-bit type (Dettmers et al. 2021, arXiv:2110.02861): in
    each of seven decades down from 1, twice as many as in the one below, evenly spread."""
    values = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = 10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [middles, -middles]
    return torch.cat(values).sort().values.to(device)


@cache
def _pairs(device: torch.device) -> Tensor:
    """The two weights of each byte, `[256, 2]`."""
    codes = nf4_codes(device)
    return torch.cartesian_prod(codes, codes)


def _reciprocal(largest: Tensor) -> Tensor:
    return 1.0 / largest.clamp(min=SMALLEST)


def _midpoints(codes: Tensor) -> Tensor:
    return (codes[:-1] + codes[1:]) / 2


def _scaled(values_W: Tensor, absmax_K: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    size = torch.Size(shape)
    if size.numel() % BLOCK == 0:
        return values_W.view(-1, BLOCK).mul_(absmax_K[:, None]).view(size).to(dtype)
    scale_W = absmax_K.repeat_interleave(BLOCK)[: size.numel()]
    return (values_W[: size.numel()] * scale_W).view(size).to(dtype)
