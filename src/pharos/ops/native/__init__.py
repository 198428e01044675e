"""Rows on a CPU by our own kernels in C (`kernels.c`), compiled where they run.

A pass over a few tokens reads all weights and computes next to nothing, so the memory's speed is
the limit, and each call of torch that stands beside a product shows. Few are up to eight, or 64 on
a processor that multiplies bfloat16 or bytes (AVX-512 with BF16 or VNNI; in tiles with AMX). For
such passes there are two native ones: through a linear (`linear.py`), and through all blocks of a
model of the Llama family (`blocks.py`).

On such a processor a prompt's rows are taken too: threads share the outputs as they come, so that
none waits for a slower one, and what stands between the products, norms and gates, does not go
through the memory again and again (`rows.py`). Without tiles so is its attention in bfloat16
(`attention.py`), which torch multiplies in pieces that are too small. And the next token is chosen
where its scores lie (`sampling.py`). Torch's own path stays beside all: for whatever the kernels do
not know, and where there is no compiler. `PHAROS_NATIVE=0` in the environment leaves it alone.
"""

from pharos.ops.native.attention import attend_prompt, takes_prompt
from pharos.ops.native.blocks import Matrices, NativeBlocks, NativePass, Norm, Parts
from pharos.ops.native.linear import (
    NativeMatrix,
    bf16_matrix,
    int8_matrix,
    int8_rows_matrix,
)
from pharos.ops.native.load import library
from pharos.ops.native.rows import norm_rows, silu_and_mul, swiglu, takes_rows
from pharos.ops.native.sampling import choose, takes_scores

__all__ = [
    "Matrices",
    "NativeBlocks",
    "NativeMatrix",
    "NativePass",
    "Norm",
    "Parts",
    "attend_prompt",
    "bf16_matrix",
    "choose",
    "int8_matrix",
    "int8_rows_matrix",
    "library",
    "norm_rows",
    "silu_and_mul",
    "swiglu",
    "takes_prompt",
    "takes_rows",
    "takes_scores",
]
