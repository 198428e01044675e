"""The next token of rows of scores on a CPU: the likeliest, or one drawn at a temperature.

    if takes_scores(logits_BV):
        ids_B = choose(logits_BV, temperatures, uniforms, mask_BW)

A row is read where it lies, in its own type, once for its largest score and once for the weights of
the others beside it. Torch makes tensors of all in between, and after a pass that has read a
gigabyte of weights each of its calls begins with nothing in the caches.

Shapes: B rows, V vocabulary, W words of 32 tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharos.ops.native.linear import DTYPES
from pharos.ops.native.load import library

BLOCK = 64
"""Tokens that are first looked at as one: AMONG in `kernels.c`."""
LEAST = 4096
"""Of a smaller vocabulary torch looks at all tokens in no time."""


def takes_scores(scores_BV: Tensor) -> bool:
    """Whether there are kernels for such scores."""
    return (
        scores_BV.device.type == "cpu"
        and scores_BV.dtype in DTYPES
        and len(scores_BV) > 0
        and scores_BV.shape[1] >= LEAST
        and not (torch.is_grad_enabled() and scores_BV.requires_grad)
        and library() is not None
    )


def choose(
    scores_BV: Tensor,
    temperatures: Sequence[float],
    uniforms: Sequence[float],
    mask_BW: NDArray[np.int32] | None = None,
) -> Tensor:
    """`[B]`: the likeliest token of a row, the first of equal ones, where its temperature is 0; or
    that at which the cumulative weights `exp(score / temperature)` pass the row's uniform number,
    in [0, 1), of them all (temperatures are then from 1e-30 to 1e30). Of a mask, bit `t % 32` of
    word `t // 32` is set where token `t` is legal. -1 where a legal score is no number, or the
    largest is not finite."""
    loaded, num_threads = library(), torch.get_num_threads()
    num_rows, vocab_size = scores_BV.shape
    assert loaded is not None and len(temperatures) == len(uniforms) == num_rows, num_rows
    scores_BV = scores_BV.contiguous()
    temperature_B = torch.tensor(temperatures, dtype=torch.float32)
    uniform_B = torch.tensor(uniforms, dtype=torch.float64)
    if mask_BW is not None:
        mask_BW = np.ascontiguousarray(mask_BW, dtype=np.int32)
        assert mask_BW.shape == (num_rows, -(-vocab_size // 32)), mask_BW.shape
    ids_B = torch.empty(num_rows, dtype=torch.int64)
    memory = torch.empty(num_threads * -(-vocab_size // BLOCK), dtype=torch.float64)
    loaded.choose(
        scores_BV.data_ptr(),
        None if mask_BW is None else mask_BW.ctypes.data,
        temperature_B.data_ptr(),
        uniform_B.data_ptr(),
        ids_B.data_ptr(),
        num_rows,
        vocab_size,
        DTYPES[scores_BV.dtype],
        num_threads,
        memory.data_ptr(),
    )
    return ids_B
