from typing import Any

import numpy as np
import pytest
import torch

from pharos.train.objectives.question_answering import QuestionAnswering
from pharos.train.objectives.vocabulary import Vocabulary


def test_both_ends_count_half_and_padding_is_no_candidate(tiny: Any, make_batch: Any) -> None:
    objective = QuestionAnswering(Vocabulary(size=61))
    rows = [
        {
            "ids": np.arange(length) + 5,
            "token_types": np.repeat([0, 1], [3, length - 3]),
            "start": np.array(start),
            "end": np.array(start and start + 1),
        }
        for length, start in ((7, 4), (11, 0))
    ]
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
