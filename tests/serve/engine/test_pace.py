"""Copies are fetched where that is faster than to read what they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.serve.engine.pace import RETRY_AFTER, Pace

BLOCK = 4


def pace_of(*, move_s: float, read_s: float) -> Pace:
    """Seconds for a block."""
    pace = Pace(BLOCK)
    pace.note_moves(3, 3 * move_s)
    pace.note_reading(5 * BLOCK, 5 * read_s)
    return pace


def test_what_is_measured_is_the_time_for_a_block() -> None:
    pace = pace_of(move_s=0.5, read_s=2.0)
    assert (pace.move_s, pace.read_s) == pytest.approx((0.5, 2.0))


def test_before_it_is_measured_all_is_taken_and_kept() -> None:
    pace = Pace(BLOCK)
    assert pace.num_worth([False, True, True]) == 3
    pace.note_moves(1, 100.0)
    assert pace.num_worth([False, True, True]) == 3
    assert pace.pays_to_keep()


def test_copies_that_take_longer_than_to_read_them_are_left() -> None:
    pace = pace_of(move_s=3.0, read_s=2.0)
    assert pace.num_worth([False, True, True]) == 1
    assert not pace.pays_to_keep()


def test_a_slow_copy_is_fetched_for_what_is_kept_behind_it() -> None:
    pace = pace_of(move_s=3.0, read_s=2.0)
    assert pace.num_worth([True, False, False, True]) == 3


def test_a_copy_is_made_only_where_both_ways_pay() -> None:
    pace = pace_of(move_s=1.5, read_s=2.0)
    assert pace.num_worth([True, True]) == 2
    assert not pace.pays_to_keep()
    assert pace_of(move_s=1.0, read_s=2.0).pays_to_keep()


@given(
    copies=st.lists(st.booleans(), max_size=12),
    move_s=st.integers(1, 9),
    read_s=st.integers(1, 9),
)
def test_no_other_number_of_blocks_is_there_sooner(
    copies: list[bool], move_s: int, read_s: int
) -> None:
    def seconds(count: int) -> int:
        return move_s * sum(copies[:count]) + read_s * (len(copies) - count)

    taken = pace_of(move_s=move_s, read_s=read_s).num_worth(copies)
    assert seconds(taken) == min(map(seconds, range(len(copies) + 1)))


def test_the_last_steps_say_most() -> None:
    pace = pace_of(move_s=100.0, read_s=2.0)
    for _ in range(60):
        pace.note_moves(3, 3.0)
    assert pace.move_s == pytest.approx(1.0, rel=0.1)


def test_moves_that_did_not_pay_get_another_chance() -> None:
    pace = pace_of(move_s=100.0, read_s=2.0)
    for _ in range(RETRY_AFTER - 2):
        pace.note_reading(BLOCK, 2.0)
    assert not pace.pays_to_keep()
    pace.note_reading(BLOCK, 2.0)
    assert pace.pays_to_keep()
    pace.note_moves(1, 100.0)
    assert not pace.pays_to_keep()
