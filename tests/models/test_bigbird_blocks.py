import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pharos.models.bigbird_blocks import BlockPattern, find_looks

PATTERNS = st.builds(
    BlockPattern,
    size=st.just(16),
    num_random=st.integers(0, 4),
    num_heads=st.integers(1, 3),
    max_positions=st.just(4096),
)


@given(PATTERNS, st.integers(1, 20), st.integers(0, 3))
def test_a_block_looks_at_its_neighbours_the_ends_and_as_many_random_ones(
    pattern: BlockPattern, more: int, seed: int
) -> None:
    num_blocks = pattern.reach + more
    counts_HMM = pattern.count(num_blocks, seed=seed)
    assert counts_HMM.shape == (pattern.num_heads, num_blocks, num_blocks)
    assert (counts_HMM[:, [0, -1]] == 1).all()
    assert (counts_HMM[:, :, [0, -1]] == 1).all()
    for row in range(1, num_blocks - 1):
        assert (counts_HMM[:, row, row - 1 : row + 2] == 1).all()
        near = 4 if row in (1, num_blocks - 2) else 5
        assert (counts_HMM[:, row].sum(axis=1) == near + pattern.num_random).all()


@given(PATTERNS, st.integers(1, 20))
def test_in_evaluation_the_random_blocks_are_the_first(pattern: BlockPattern, more: int) -> None:
    num_blocks = pattern.reach + more
    (counts_MM,) = pattern.count(num_blocks, seed=None)
    assert (counts_MM[1:-1, 0] == 1 + pattern.num_random).all()
    assert counts_MM[:, 1:].max() == 1


@given(PATTERNS, st.integers(1, 20), st.none() | st.integers(0, 3))
def test_a_block_of_keys_stands_there_as_often_as_it_is_looked_at(
    pattern: BlockPattern, more: int, seed: int | None
) -> None:
    num_blocks = pattern.reach + more
    places_N, table_HMN = find_looks(pattern, num_blocks, seed=seed)
    counts_HMM = torch.zeros(len(table_HMN), num_blocks, num_blocks, dtype=torch.long)
    counts_HMM.index_add_(2, torch.tensor(places_N), table_HMN.long())
    assert np.array_equal(counts_HMM.numpy(), pattern.count(num_blocks, seed=seed))
    assert list(places_N[:num_blocks]) == list(range(num_blocks))


def test_the_draw_is_the_same_in_every_step_and_differs_between_layers_and_heads() -> None:
    pattern = BlockPattern(size=64, num_random=3, num_heads=2, max_positions=4096)
    counts_HMM = pattern.count(30, seed=0)
    assert np.array_equal(counts_HMM, pattern.count(30, seed=0))
    assert not np.array_equal(counts_HMM, pattern.count(30, seed=1))
    assert not np.array_equal(counts_HMM[0], counts_HMM[1])


def test_drawing_leaves_numpys_own_generator_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    BlockPattern(size=64, num_random=3, num_heads=2, max_positions=4096).count(30, seed=5)
    assert np.random.random() == expected


@pytest.mark.parametrize("length", [1024, 3072, 4096])
def test_at_the_papers_lengths_the_draw_is_from_the_first_1024_tokens(length: int) -> None:
    pattern = BlockPattern(size=64, num_random=3, num_heads=2, max_positions=4096)
    counts_HMM = pattern.count(length // 64, seed=0)
    (plain_MM,) = pattern.count(length // 64, seed=None)
    drawn_HMM = counts_HMM - (plain_MM > 0)
    assert (drawn_HMM[:, 1:-1].sum(axis=2) == 3).all()
    assert drawn_HMM[:, :, 16:].sum() == 0
