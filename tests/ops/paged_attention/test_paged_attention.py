"""Blocks give what one stretch of memory gives: any tables, any mix of sequences in a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pharos.ops.attention.triton import can_use_triton
from pharos.ops.masks import Causal, Documents, Full, Mask, Window
from pharos.ops.paged_attention import (
    DecodeBatch,
    FlatBatch,
    Segment,
    flat_batch,
    look_back,
    paged_attention,
    plain_paged_attention,
    store,
    triton,
)
from pharos.ops.positions import Alibi, DistanceBias

LONGEST = 40
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}

interpreted = pytest.mark.skipif(
    torch.cuda.is_available() or not can_use_triton(torch.zeros(1, 1, 1, 16)),
    reason="needs triton, and no GPU: there it would not be interpreted",
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Problem(NamedTuple):
    q_NHK: Tensor
    kv_2GPCK: Tensor
    batch: Any
    mask: Mask
    bias: DistanceBias | None
    scale: float | None

    def to(self, device: str) -> "Problem":
        batch = FlatBatch(
            self.batch.segments, block_size=self.batch.block_size, device=torch.device(device)
        )
        bias = self.bias and DistanceBias(self.bias.values_HR.to(device), self.bias.zero)
        q_NHK, kv_2GPCK = self.q_NHK.to(device), self.kv_2GPCK.to(device)
        return self._replace(q_NHK=q_NHK, kv_2GPCK=kv_2GPCK, batch=batch, bias=bias)

    def attend(self, function: Callable[..., Tensor]) -> Tensor:
        asked = {"mask": self.mask, "bias": self.bias, "scale": self.scale}
        return function(self.q_NHK, self.kv_2GPCK, self.batch, **asked)

    def attend_with_triton(self) -> Tensor:
        asked = {"look_back": look_back(self.mask), "bias": self.bias, "scale": self.scale}
        return triton.attend_with_triton(self.q_NHK, self.kv_2GPCK, self.batch, **asked)


@st.composite
def problems(
    draw: st.DrawFn, *, dtypes: tuple[torch.dtype, ...] = (torch.float32,), most_rows: int = 12
) -> Problem:
    size, groups = draw(st.sampled_from((1, 3, 4, 16))), draw(st.sampled_from((1, 2)))
    heads = groups * draw(st.sampled_from((1, 3)))
    sizes = st.tuples(st.integers(0, LONGEST), st.integers(1, most_rows))
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
    width, num_rows = draw(st.sampled_from((8, 24))), sum(length for _, length in asked)
    dtype = draw(st.sampled_from(dtypes))
    kv = torch.randn(2, groups, num_blocks, size, width, generator=generator).to(dtype)
    q = torch.randn(num_rows, heads, width, generator=generator).to(dtype)
    window = draw(st.none() | st.integers(0, 9))
    mask = Causal() if window is None else Causal() & Window(left=window)
    bias = Alibi(heads).bias(LONGEST + 12) if draw(st.booleans()) else None
    batch = FlatBatch(segments, block_size=size)
    return Problem(q, kv, batch, mask, bias, draw(st.sampled_from((None, 0.2))))


def forget_what_was_not_written(problem: Problem) -> None:
    """Blocks come with whatever was in them."""
    kv_2GSK = problem.kv_2GPCK.flatten(2, 3)
    written = torch.zeros(kv_2GSK.shape[2], dtype=torch.bool)
    size = problem.batch.block_size
    for table, start, length in problem.batch.segments:
        written[[table[i // size] * size + i % size for i in range(start + length)]] = True
    kv_2GSK[:, :, ~written] = float("nan")


@pytest.mark.parametrize("most_gathered", [0, 25, 10_000])
@settings(deadline=None, max_examples=40)
@given(problem=problems())
def test_blocks_equal_the_plain_twin(problem: Problem, most_gathered: int) -> None:
    forget_what_was_not_written(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_batch, "MOST_GATHERED", most_gathered)
        out = problem.attend(paged_attention)
    expected = problem.attend(plain_paged_attention)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("rows", [(16, 64), (16, 16)])
@settings(deadline=None, max_examples=8)
@given(problem=problems(dtypes=(torch.float32, torch.float16)), split=st.sampled_from((64, 256)))
def test_interpreted_kernels_equal_the_plain_twin(
    problem: Problem, rows: tuple[int, int], split: int
) -> None:
    forget_what_was_not_written(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "SPLIT", split)
        patch.setattr(triton, "FEW_ROWS", rows[0])
        patch.setattr(triton, "MANY_ROWS", rows[1])
        out = problem.attend_with_triton()
    assert_close(out, problem.attend(plain_paged_attention))


@interpreted
@pytest.mark.parametrize("window", [None, 70])
def test_keys_split_among_programs_equal_the_plain_twin(window: int | None) -> None:
    """Two splits and a part of a third, beside a sequence that has one key."""
    generator = torch.Generator().manual_seed(0)
    segments = [Segment(list(range(10, 0, -1)), 155, 2), Segment([11], 0, 1)]
    q, kv = torch.randn(3, 4, 16, generator=generator), torch.randn(2, 2, 12, 16, 16)
    mask = Causal() if window is None else Causal() & Window(left=window)
    problem = Problem(q, kv, FlatBatch(segments, block_size=16), mask, None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "SPLIT", 64)
        out = problem.attend_with_triton()
    assert_close(out, problem.attend(plain_paged_attention))


def as_decoded(problem: Problem, *, num_spare: int) -> Problem:
    """The same of sequences with one row each, of which only tensors tell; with room for more."""
    segments = problem.batch.segments
    most = max(len(segment.table) for segment in segments) + num_spare
    blocks = [[*segment.table, *[0] * (most - len(segment.table))] for segment in segments]
    positions = torch.tensor([segment.start for segment in segments])
    told_NX = torch.tensor(blocks, dtype=torch.int32)
    told_NX = torch.cat((torch.zeros_like(told_NX[:, :1]), told_NX), dim=1)  # a part of a tensor
    batch = DecodeBatch(positions, told_NX[:, 1:], block_size=problem.batch.block_size)
    return problem._replace(batch=batch)


@settings(deadline=None, max_examples=40)
@given(problem=problems(most_rows=1), num_spare=st.integers(0, 3))
def test_sequences_that_only_tensors_tell_of_equal_the_plain_twin(
    problem: Problem, num_spare: int
) -> None:
    forget_what_was_not_written(problem)
    decoded = as_decoded(problem, num_spare=num_spare)
    expected = problem.attend(plain_paged_attention)
    torch.testing.assert_close(decoded.attend(paged_attention), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(decoded.batch.slots_N, problem.batch.slots_N)


@interpreted
@settings(deadline=None, max_examples=8)
@given(
    problem=problems(dtypes=(torch.float32, torch.float16), most_rows=1),
    num_spare=st.sampled_from((0, 40)),
)
def test_interpreted_kernels_read_sequences_that_only_tensors_tell_of(
    problem: Problem, num_spare: int
) -> None:
    """Also where the longest could have more splits than any of them has."""
    forget_what_was_not_written(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "SPLIT", 64)
        out = as_decoded(problem, num_spare=num_spare).attend_with_triton()
    assert_close(out, problem.attend(plain_paged_attention))


@pytest.mark.gpu
@on_gpu
@settings(deadline=None, max_examples=100)
@given(problem=problems(dtypes=(torch.float32, torch.float16)))
def test_kernels_equal_the_plain_twin(problem: Problem) -> None:
    problem = problem.to("cuda")
    assert_close(problem.attend(paged_attention), problem.attend(plain_paged_attention))


def assert_close(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    limit = tolerance * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, atol=limit, rtol=tolerance)


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
    kv = torch.zeros(2, 1, 4, 2, 1)
    batch = FlatBatch([Segment([3, 0], 1, 2), Segment([2], 0, 1)], block_size=2)
    k_GNK = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    store(kv, k_GNK, -k_GNK, batch)
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
