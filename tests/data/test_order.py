from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core.errors import TrainingError
from pharos.data.order import Shuffled, epoch_permutation
from pharos.data.rows import Row


class Numbers:
    """Rows that say which they are."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def row(self, index: int, epoch: int) -> Row:
        return {"index": np.array(index), "epoch": np.array(epoch)}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**63), st.integers(0, 1000))
def test_each_epoch_has_every_row_once(size: int, seed: int, epoch: int) -> None:
    stream = Shuffled(Numbers(size), seed)
    rows = [stream[n] for n in range(epoch * size, (epoch + 1) * size)]
    assert sorted(int(row["index"]) for row in rows) == list(range(size))
    assert {int(row["epoch"]) for row in rows} == {epoch}


def test_all_orders_of_four_rows_are_equally_frequent() -> None:
    draws = 1200
    orders = Counter(
        tuple(epoch_permutation(4, seed, epoch)[i] for i in range(4))
        for seed in range(12)
        for epoch in range(draws // 12)
    )
    expected = draws / 24
    chi_square = sum((orders[order] - expected) ** 2 / expected for order in orders)
    assert len(orders) == 24
    assert chi_square < 50  # 23 degrees of freedom: one draw in a thousand is above


@pytest.mark.parametrize("size", [1000, 4096, 5000])
def test_neighbours_in_the_order_are_not_neighbours_in_the_data(size: int) -> None:
    permutation = epoch_permutation(size, 7, 0)
    order = np.array([permutation[i] for i in range(size)])
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.07
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.07
    eighths = np.histogram2d(np.arange(size), order, bins=8)[0]
    expected = size / 64
    assert ((eighths - expected) ** 2 / expected).sum() < 90  # 49 degrees of freedom


def test_seeds_epochs_and_names_give_different_orders() -> None:
    arguments = [(0, 0, ""), (1, 0, ""), (0, 1, ""), (0, 0, "code")]
    permutations = [epoch_permutation(100, *a) for a in arguments]
    assert len({tuple(p[i] for i in range(100)) for p in permutations}) == 4


def test_any_row_of_a_large_set_is_found_at_once() -> None:
    permutation = epoch_permutation(10**12, 0, 3)
    places = [permutation[i] for i in range(10**12 - 1000, 10**12)]
    assert len(set(places)) == 1000
    assert min(places) < 10**11 < 9 * 10**11 < max(places) < 10**12
    with pytest.raises(IndexError, match="place 1000000000000"):
        permutation[10**12]


def test_the_order_stays_what_it_was_when_runs_were_begun() -> None:
    permutation = epoch_permutation(1000, 1337, 2)
    assert [permutation[i] for i in range(5)] == [894, 783, 211, 251, 114]


def test_a_set_without_rows_is_refused() -> None:
    with pytest.raises(TrainingError, match="'code' has no rows"):
        Shuffled(Numbers(0), 0, "code")
