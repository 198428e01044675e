"""Triton kernels of paged attention: the keys of a sequence are found through its table, tile by
tile, and never copied.

A tile of queries is X rows: some neighbouring tokens of one sequence, each with all the heads that
share a key, so that a key is loaded once for all of them. While a prompt is read, one program goes
through all keys of such a tile. While tokens are written there are few queries and many keys, so
the keys are split among programs (Dao et al. 2023, "Flash-Decoding"), and `combine_kernel` puts the
parts together. A split always has as many keys: what a sequence gets does not depend on how long
the others are.

Needs `triton` at import; the way here is through `triton.py` beside this file. Scores are in units
of log 2: the scale and the bias arrive multiplied by log₂ e.

Shapes: X rows of a tile, C keys of a tile, W head width rounded up to a power of two.
"""

# Triton's language has types of its own.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Sizes(NamedTuple):
    """`shared` heads have the same keys; all blocks have room for `num_slots` tokens. `look_back`
    is -1 where there is no limit."""

    num_heads: int
    num_groups: int
    shared: int
    width: int
    num_slots: int
    look_back: int
    scale: float


class Tables(NamedTuple):
    """Row i of `blocks`, which are `stride` apart, are the blocks of sequence i. A task is four
    numbers: its sequence, its first row in the batch, how many rows (tokens) it has, and the
    position of the first."""

    tasks: Any
    blocks: Any
    stride: int


class Bias(NamedTuple):
    """`num_distances` numbers a head, that of distance 0 at `zero`."""

    table: Any
    zero: int
    num_distances: int


class Parts(NamedTuple):
    """What each split of each task found: the mean of its values, the greatest score, and the sum
    of the exponentials relative to it."""

    means: Any
    tops: Any
    sums: Any


@triton.jit
def _row(tables, sizes, group, X: tl.constexpr):
    """Of each row of a tile: its token, its head, its position, and whether it is one at all."""
    task = tables.tasks + tl.program_id(0) * 4
    x_X = tl.arange(0, X)
    token_X = x_X // sizes.shared
    head_X = group * sizes.shared + x_X % sizes.shared
    inside_X = token_X < tl.load(task + 2)
    return tl.load(task + 1) + token_X, head_X, tl.load(task + 3) + token_X, inside_X


@triton.jit
def _place(row_X, head_X, sizes, W: tl.constexpr):
    """Where the queries of each row begin in the batch, and each of their numbers."""
    start_X = (row_X.to(tl.int64) * sizes.num_heads + head_X) * sizes.width
    return start_X[:, None] + tl.arange(0, W)[None, :]


@triton.jit
def attend_kernel(
    q, k, v, out, parts, sizes, tables, bias, X: tl.constexpr, C: tl.constexpr, W: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """A program: a tile of queries, the heads of a group, the keys of a split (SPLIT 0: all)."""
    task = tables.tasks + tl.program_id(0) * 4
    group, split = tl.program_id(1), tl.program_id(2)
    table = tables.blocks + tl.load(task).to(tl.int64) * tables.stride
    position, stop = tl.load(task + 3), tl.load(task + 3) + tl.load(task + 2)
    first_slot = group.to(tl.int64) * sizes.num_slots
    first = 0
    if sizes.look_back >= 0:
        first = tl.maximum(position - sizes.look_back, 0) // C * C
    if SPLIT:
        if split * SPLIT >= stop:
            return
        first = tl.maximum(first, split * SPLIT)
        stop = tl.minimum(stop, (split + 1) * SPLIT)

    row_X, head_X, position_X, inside_X = _row(tables, sizes, group, X)
    in_width = (tl.arange(0, W) < sizes.width)[None, :]
    place_XW = _place(row_X, head_X, sizes, W)
    q_XW = tl.load(q + place_XW, mask=inside_X[:, None] & in_width, other=0.0)
    mean_XW = tl.zeros([X, W], tl.float32)
    sum_X = tl.zeros([X], tl.float32)
    top_X = tl.full([X], -1e30, tl.float32)  # finite: -inf - -inf is no number
    for start in range(first, stop, C):
        key_C = start + tl.arange(0, C)
        there_C = key_C < stop
        block_C = tl.load(table + key_C // BLOCK, mask=there_C, other=0).to(tl.int64)
        slot_C = block_C * BLOCK + key_C % BLOCK + first_slot
        place_CW = slot_C[:, None] * sizes.width + tl.arange(0, W)[None, :]
        k_CW = tl.load(k + place_CW, mask=there_C[:, None] & in_width, other=0.0)
        scores_XC = tl.dot(q_XW, tl.trans(k_CW), input_precision=DOT) * sizes.scale
        behind_XC = position_X[:, None] - key_C[None, :]
        allowed_XC = (behind_XC >= 0) & there_C[None, :]
        if sizes.look_back >= 0:
            allowed_XC &= behind_XC <= sizes.look_back
        if bias is not None:
            distance_XC = bias.zero - behind_XC
            known_XC = allowed_XC & (distance_XC >= 0) & (distance_XC < bias.num_distances)
            entry_XC = bias.table + head_X[:, None] * bias.num_distances + distance_XC
            scores_XC += tl.load(entry_XC, mask=known_XC & inside_X[:, None], other=0.0)
        scores_XC = tl.where(allowed_XC, scores_XC, float("-inf"))
        new_top_X = tl.maximum(top_X, tl.max(scores_XC, axis=1))
        p_XC = tl.exp2(scores_XC - new_top_X[:, None])
        fade_X = tl.exp2(top_X - new_top_X)
        sum_X = sum_X * fade_X + tl.sum(p_XC, axis=1)
        v_CW = tl.load(v + place_CW, mask=there_C[:, None] & in_width, other=0.0)
        mean_XW = mean_XW * fade_X[:, None]
        mean_XW = tl.dot(p_XC.to(v_CW.dtype), v_CW, mean_XW, input_precision=DOT)
        top_X = new_top_X

    if SPLIT:
        part = (tl.program_id(0) * sizes.num_groups + group) * tl.num_programs(2) + split
        row = part.to(tl.int64) * X + tl.arange(0, X)
        tl.store(parts.means + row[:, None] * W + tl.arange(0, W)[None, :], mean_XW)
        tl.store(parts.tops + row, top_X)
        tl.store(parts.sums + row, sum_X)
    else:
        mean_XW /= tl.where(sum_X > 0, sum_X, 1.0)[:, None]
        mask = inside_X[:, None] & in_width
        tl.store(out + place_XW, mean_XW.to(out.dtype.element_ty), mask=mask)


@triton.jit
def combine_kernel(
    out, parts, sizes, tables, num_splits, X: tl.constexpr, W: tl.constexpr, SPLIT: tl.constexpr
):
    """A program: the splits of a tile of queries, one after another."""
    task, group = tables.tasks + tl.program_id(0) * 4, tl.program_id(1)
    stop = tl.load(task + 3) + tl.load(task + 2)
    first_part = (tl.program_id(0) * sizes.num_groups + group) * num_splits
    mean_XW = tl.zeros([X, W], tl.float32)
    sum_X = tl.zeros([X], tl.float32)
    top_X = tl.full([X], -1e30, tl.float32)
    for split in range(0, tl.cdiv(stop, SPLIT)):
        row = (first_part + split).to(tl.int64) * X + tl.arange(0, X)
        part_top_X = tl.load(parts.tops + row)
        new_top_X = tl.maximum(top_X, part_top_X)
        fade_X, part_fade_X = tl.exp2(top_X - new_top_X), tl.exp2(part_top_X - new_top_X)
        sum_X = sum_X * fade_X + tl.load(parts.sums + row) * part_fade_X
        part_XW = tl.load(parts.means + row[:, None] * W + tl.arange(0, W)[None, :])
        mean_XW = mean_XW * fade_X[:, None] + part_XW * part_fade_X[:, None]
        top_X = new_top_X
    row_X, head_X, _, inside_X = _row(tables, sizes, group, X)
    mean_XW /= tl.where(sum_X > 0, sum_X, 1.0)[:, None]
    mask = inside_X[:, None] & (tl.arange(0, W) < sizes.width)[None, :]
    place_XW = _place(row_X, head_X, sizes, W)
    tl.store(out + place_XW, mean_XW.to(out.dtype.element_ty), mask=mask)
