import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_strategies import masks, relative_masks

from pharos.ops.masks import (
    Blocks,
    BlockTable,
    Causal,
    Documents,
    Full,
    Global,
    Mask,
    Strided,
    Valid,
    Window,
)

LENGTH = 60
HERE = torch.arange(6)


def matrix(mask: Mask) -> list[list[int]]:
    return mask.allows(HERE, HERE)[0, 0].int().tolist()


@settings(deadline=None)
@given(
    mask=masks(sequences=2, heads=3, length=LENGTH),
    q_start=st.integers(0, LENGTH - 1),
    q_size=st.integers(1, 20),
    k_size=st.integers(1, 20),
)
def test_bounds_never_leave_out_an_allowed_pair_nor_let_in_another(
    mask: Mask, q_start: int, q_size: int, k_size: int
) -> None:
    q_M, k_N = Blocks.of(q_start, LENGTH, q_size), Blocks.of(0, LENGTH, k_size)
    bounds = mask.bounds(q_M, k_N)
    q_T, k_S = torch.arange(q_start, LENGTH), torch.arange(LENGTH)
    allowed_BHTS = mask.allows(q_T, k_S).expand(2, 3, -1, -1)
    of_block_MT = torch.arange(LENGTH - q_start) // q_size == torch.arange(len(q_M.first))[:, None]
    of_block_NS = torch.arange(LENGTH) // k_size == torch.arange(len(k_N.first))[:, None]
    count_BHMN = of_block_MT.float() @ allowed_BHTS.float() @ of_block_NS.float().T
    size_MN = of_block_MT.sum(1)[:, None] * of_block_NS.sum(1)
    assert ((count_BHMN > 0) <= bounds.some).all()
    assert (bounds.all <= (count_BHMN == size_MN)).all()


@given(mask=relative_masks(), shift=st.integers(0, 1000))
def test_masks_of_the_distance_do_not_see_where_they_are(mask: Mask, shift: int) -> None:
    q, k = torch.arange(20, 50), torch.arange(60)
    assert torch.equal(mask.allows(q, k), mask.allows(q + shift, k + shift))


def test_a_window_reaches_left_and_right() -> None:
    assert matrix(Window(1, 2))[2] == [0, 1, 1, 1, 1, 0]


def test_a_strided_mask_sees_itself_and_every_so_manyth_token() -> None:
    assert matrix(Causal() & Strided(2))[4] == [1, 0, 1, 0, 1, 0]


def test_global_tokens_see_all_and_are_seen_by_all() -> None:
    rows = matrix(Window(0) | Global(torch.tensor([[False, True] + [False] * 4])))
    assert rows[1] == [1] * 6
    assert [row[1] for row in rows] == [1] * 6
    assert rows[3] == [0, 1, 0, 1, 0, 0]


def test_documents_do_not_see_each_other() -> None:
    rows = matrix(Documents(torch.tensor([[0, 0, 1, 1, 1, 2]])))
    assert rows[0] == rows[1] == [1, 1, 0, 0, 0, 0]
    assert rows[3] == [0, 0, 1, 1, 1, 0]


def test_padding_is_not_seen() -> None:
    rows = matrix(Valid(torch.arange(6)[None] < 4))
    assert rows == [[1, 1, 1, 1, 0, 0]] * 6


def test_a_table_of_blocks_is_read_by_block() -> None:
    rows = matrix(BlockTable(3, torch.tensor([[[True, False], [True, True]]])))
    assert rows == [[1, 1, 1, 0, 0, 0]] * 3 + [[1] * 6] * 3


def test_whoever_sees_everything_adds_nothing() -> None:
    assert Full() & Causal() == Causal() & Full() == Causal()
    assert Full() | Causal() == Causal() | Full() == Full()


def test_impossible_masks_are_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="-1 left"):
        Window(-1)
    with pytest.raises(ValueError, match="stride of 0"):
        Strided(0)
