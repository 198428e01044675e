from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core.errors import TrainingError
from pharos.data.packing import PADDING, BestFitRows, ConcatRows, best_fit
from pharos.data.token_source import TokenArrays

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(any)
ROW = st.integers(2, 24)


def numbered(lengths: Sequence[int]) -> TokenArrays:
    """Documents in which no two tokens are alike."""
    ends = np.cumsum([0, *lengths])
    return TokenArrays.of_documents(np.arange(ends[i], ends[i + 1]) for i in range(len(lengths)))


def one_by_one(lengths: Sequence[int], capacity: int) -> list[int]:
    """Best fit decreasing as the textbook has it: how full each row is."""
    fills: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, fill in enumerate(fills) if fill + length <= capacity]
        if fitting:
            fills[max(fitting, key=lambda i: fills[i])] += length
        else:
            fills.append(length)
    return fills


@given(LENGTHS, ROW)
def test_every_token_is_in_exactly_one_place(lengths: list[int], row_length: int) -> None:
    rows = BestFitRows(numbered(lengths), row_length)
    found = [rows.row(i, epoch=0) for i in range(len(rows))]
    tokens = np.concatenate([row["ids"][row["document"] != PADDING] for row in found])
    assert sorted(tokens) == list(range(sum(lengths)))
    assert all(len(row["ids"]) == len(row["document"]) == row_length for row in found)


@given(LENGTHS, ROW)
def test_a_document_number_stands_for_one_document_in_order(
    lengths: list[int], row_length: int
) -> None:
    rows = BestFitRows(numbered(lengths), row_length)
    ends = np.cumsum(lengths)
    for i in range(len(rows)):
        row = rows.row(i, epoch=0)
        numbers = row["document"][row["document"] != PADDING]
        assert set(numbers) == set(range(numbers.max() + 1))
        for number in range(numbers.max() + 1):
            tokens = row["ids"][row["document"] == number]
            assert (np.diff(tokens) == 1).all()
            assert len(set(np.searchsorted(ends, tokens, side="right"))) == 1
        assert (row["document"][len(numbers) :] == PADDING).all()


@given(st.lists(st.integers(1, 24), min_size=1, max_size=80))
def test_dealing_in_bulk_fills_rows_as_dealing_one_by_one(lengths: list[int]) -> None:
    rows = best_fit(np.array(lengths), 24)
    fills = np.bincount(rows, weights=lengths)
    assert fills.max() <= 24
    assert sorted(fills) == sorted(one_by_one(lengths, 24))


@given(LENGTHS, ROW)
def test_no_two_rows_would_fit_into_one(lengths: list[int], row_length: int) -> None:
    rows = BestFitRows(numbered(lengths), row_length)
    fills = [sum(piece.length for piece in rows.pieces(i)) for i in range(len(rows))]
    assert all(a + b > row_length for a, b in combinations(fills, 2))
    assert rows.report.utilisation * len(rows) * row_length == pytest.approx(sum(lengths))


def test_documents_of_many_lengths_waste_less_than_one_place_in_a_hundred() -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.lognormal(5, 1, size=3000).astype(int) + 1, 5000)
    report = BestFitRows(numbered(lengths.tolist()), 512).report
    assert report.utilisation > 0.99
    assert report.num_cut == np.count_nonzero(lengths > 512)
    assert report.num_pieces == np.sum(-(-lengths // 512))


def test_the_report_says_what_was_cut() -> None:
    report = BestFitRows(numbered([25, 0, 10, 3]), 10).report
    assert (report.num_documents, report.num_cut, report.num_pieces) == (3, 1, 5)
    assert (report.num_tokens, report.num_rows, report.num_left_out) == (38, 4, 0)
    concat = ConcatRows(numbered([25, 0, 10, 3]), 10, seed=0).report
    assert (concat.num_documents, concat.num_cut, concat.num_pieces) == (3, 2, 6)
    assert (concat.num_rows, concat.num_left_out) == (3, 8)


@given(LENGTHS, ROW, st.integers(0, 5), st.integers(0, 2**40))
def test_concatenated_rows_go_once_around_all_tokens(
    lengths: list[int], row_length: int, epoch: int, seed: int
) -> None:
    source = numbered(lengths)
    if source.num_tokens < row_length:
        return
    rows = ConcatRows(source, row_length, seed=seed)
    tokens = np.concatenate([rows.row(i, epoch)["ids"] for i in range(len(rows))])
    assert len(tokens) == len(rows) * row_length > source.num_tokens - row_length
    assert list(tokens) == [
        (rows.offset(epoch) + i) % source.num_tokens for i in range(len(tokens))
    ]


def test_each_epoch_has_other_crops_and_the_first_begins_at_the_beginning() -> None:
    rows = ConcatRows(numbered([1000]), 10, seed=3)
    assert rows.row(0, epoch=0)["ids"].tolist() == list(range(10))
    assert len({rows.offset(epoch) % 10 for epoch in range(30)}) > 5
    assert rows.offset(7) == ConcatRows(numbered([1000]), 10, seed=3).offset(7)


def test_too_little_text_is_refused_with_a_way_out() -> None:
    with pytest.raises(TrainingError, match="9 tokens, fewer than the 10 of one row; use more"):
        ConcatRows(numbered([4, 5]), 10, seed=0)
    with pytest.raises(TrainingError, match="0 tokens"):
        BestFitRows(numbered([0]), 10)
    with pytest.raises(ValueError, match="row_length is 1"):
        BestFitRows(numbered([5]), 1)
