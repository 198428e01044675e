from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pharos.train.objectives.question_answering import (
    NO_ANSWER,
    QuestionAnswering,
    answer_windows,
)
from pharos.train.objectives.vocabulary import Vocabulary

CLS, SEP = 1, 2


def windows(context: list[int], answer: tuple[int, int] | None, **changes: int) -> list[Any]:
    settings = {"max_length": 12, "overlap": 3, "cls_id": CLS, "sep_id": SEP} | changes
    return list(answer_windows([50, 51], context, answer, **settings))


def test_a_short_text_is_one_window() -> None:
    (row,) = windows([10, 11, 12, 13], (1, 2))
    assert row["ids"].tolist() == [CLS, 50, 51, SEP, 10, 11, 12, 13, SEP]
    assert row["token_types"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert row["ids"][row["start"] : row["end"] + 1].tolist() == [11, 12]


@given(st.integers(0, 40), st.data())
def test_windows_cover_the_text_and_point_to_the_answer_or_to_cls(
    length: int, data: st.DataObject
) -> None:
    context = list(range(100, 100 + length))
    start = data.draw(st.integers(0, max(length - 1, 0)))
    end = data.draw(st.integers(start, max(length - 1, start)))
    answer = (start, end) if length else None
    rows = windows(context, answer)
    seen = {int(i) for row in rows for i in row["ids"] if i >= 100}
    assert seen == set(context)
    for row in rows:
        assert len(row["ids"]) <= 12
        inside = [int(i) for i in row["ids"] if i >= 100]
        if length and {100 + start, 100 + end} <= set(inside):
            assert row["ids"][row["start"]] == 100 + start
            assert row["ids"][row["end"]] == 100 + end
        else:
            assert (row["start"], row["end"]) == (NO_ANSWER, NO_ANSWER)
            assert row["ids"][NO_ANSWER] == CLS


def test_an_answer_no_longer_than_the_overlap_is_whole_in_some_window() -> None:
    for start in range(30):
        rows = windows(list(range(100, 133)), (start, start + 2))
        assert any(row["end"] > NO_ANSWER for row in rows)


def test_a_question_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves 3 tokens for a window beside a question of 2"):
        windows([1, 2, 3], None, max_length=8)


def test_both_ends_count_half_and_padding_is_no_candidate(tiny: Any, make_batch: Any) -> None:
    objective = QuestionAnswering(Vocabulary(size=61))
    rows = windows([10, 11, 12], (1, 2)) + windows([10, 11, 12, 13, 14], None)
    model = tiny("bert", "question_answering").eval()
    batch = make_batch(objective, rows)
    alone = [make_batch(objective, [row]) for row in rows]
    expected = torch.zeros(())
    for one in alone:
        ends = model(one["ids"], token_types_BT=one["token_types"])
        start_T, end_T = ends.start[0].log_softmax(-1), ends.end[0].log_softmax(-1)
        expected = expected - (start_T[one["start"][0]] + end_T[one["end"][0]]) / 2
    torch.testing.assert_close(objective.losses(model, batch)["answer_span"], expected)
    assert objective.count(batch) == {"answer_span": 2}


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_spans_are_learnt_by_heart(
    kind: str, tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective = QuestionAnswering(Vocabulary(size=61))
    rows = [
        {"ids": text(length, length), "start": np.array(start), "end": np.array(end)}
        for length, start, end in ((12, 3, 5), (20, 0, 0), (9, 8, 8))
    ]
    batch = make_batch(objective, rows)
    model = tiny(kind, "question_answering")
    assert learn(objective, model, batch)[-1] < 0.05
    assert objective.losses(model, batch)["exact"] == 3
