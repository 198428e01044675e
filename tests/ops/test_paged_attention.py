"""Blocks give what one stretch of memory gives: any tables, any mix of sequences in a batch."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pharos.ops import paged_attention as module
from pharos.ops.masks import Causal, Documents, Full, Mask, Window
from pharos.ops.paged_attention import (
    FlatBatch,
    Segment,
    look_back,
    paged_attention,
    plain_paged_attention,
    store,
)
from pharos.ops.positions import Alibi, DistanceBias

WIDTH = 8
LONGEST = 40


class Problem(NamedTuple):
    q_NHK: Tensor
    kv_2PCGK: Tensor
    batch: FlatBatch
    mask: Mask
    bias: DistanceBias | None
    scale: float | None


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    size, groups = draw(st.sampled_from((1, 3, 4, 16))), draw(st.sampled_from((1, 2)))
    heads = groups * draw(st.sampled_from((1, 3)))
    sizes = st.tuples(st.integers(0, LONGEST), st.integers(1, 12))
    asked = draw(st.lists(sizes, min_size=1, max_size=6))
    counts = [-(-(start + length) // size) for start, length in asked]
    num_blocks = sum(counts) + 3
    ids = list(range(num_blocks))
    if draw(st.booleans(), label="fragmented"):
        ids = draw(st.permutations(ids))
    segments = []
    for (start, length), count in zip(asked, counts, strict=True):
        segments.append(Segment([ids.pop() for _ in range(count)][::-1], start, length))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    kv = torch.randn(2, num_blocks, size, groups, WIDTH, generator=generator)
    q = torch.randn(sum(length for _, length in asked), heads, WIDTH, generator=generator)
    window = draw(st.none() | st.integers(0, 9))
    mask = Causal() if window is None else Causal() & Window(left=window)
    bias = Alibi(heads).bias(LONGEST + 12) if draw(st.booleans()) else None
    batch = FlatBatch(segments, block_size=size)
    return Problem(q, kv, batch, mask, bias, draw(st.sampled_from((None, 0.2))))


def forget_what_was_not_written(problem: Problem) -> None:
    """Blocks come with whatever was in them."""
    kv_2SGK = problem.kv_2PCGK.flatten(1, 2)
    written = torch.zeros(kv_2SGK.shape[1], dtype=torch.bool)
    size = problem.batch.block_size
    for table, start, length in problem.batch.segments:
        written[[table[i // size] * size + i % size for i in range(start + length)]] = True
    kv_2SGK[:, ~written] = float("nan")


@pytest.mark.parametrize("most_gathered", [0, 25, 10_000])
@settings(deadline=None, max_examples=40)
@given(problem=problems())
def test_blocks_equal_the_plain_twin(problem: Problem, most_gathered: int) -> None:
    forget_what_was_not_written(problem)
    q_NHK, kv_2PCGK, batch, mask, bias, scale = problem
    expected = plain_paged_attention(q_NHK, kv_2PCGK, batch, mask=mask, bias=bias, scale=scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_GATHERED", most_gathered)
        out = paged_attention(q_NHK, kv_2PCGK, batch, mask=mask, bias=bias, scale=scale)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_keys_in_neighbouring_blocks_are_not_copied() -> None:
    batch = FlatBatch([Segment([5, 6, 7], 9, 2)], block_size=4)
    (one,) = batch.reads(None, gather=False).alone
    assert one.blocks is None
    assert (one.first_slot, one.num_keys) == (20, 11)


def test_blocks_that_lie_before_a_window_are_not_read() -> None:
    batch = FlatBatch([Segment([3, 1, 2, 8], 14, 1)], block_size=4)
    (one,) = batch.reads(5, gather=False).alone
    assert one.blocks is not None
    assert one.blocks.tolist() == [2, 8]
    assert (one.first_slot, one.num_keys) == (1, 6)


def test_new_keys_are_stored_where_the_tables_say() -> None:
    kv = torch.zeros(2, 4, 2, 1, 1)
    batch = FlatBatch([Segment([3, 0], 1, 2), Segment([2], 0, 1)], block_size=2)
    k_NGK = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    store(kv, k_NGK, -k_NGK, batch)
    assert kv[0].flatten().tolist() == [2, 0, 0, 0, 3, 0, 0, 1]
    assert torch.equal(kv[1], -kv[0])


def test_a_table_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence of 5 tokens has 1 blocks of 4; allocate"):
        FlatBatch([Segment([0], 4, 1)], block_size=4)


def test_the_nearest_window_counts() -> None:
    assert look_back(Causal()) is None
    assert look_back(Window(left=9) & Causal() & Window(left=4, right=2)) == 4


@pytest.mark.parametrize("mask", [Full(), Window(left=3), Causal() & Documents(torch.zeros(1, 4))])
def test_masks_that_blocks_do_not_know_are_refused(mask: Mask) -> None:
    with pytest.raises(ValueError, match="choose Causal"):
        look_back(mask)
