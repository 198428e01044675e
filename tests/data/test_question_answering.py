import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.test_examples import TEXTS, TOKENIZERS, WORDPIECE

from pharos.core.errors import TrainingError
from pharos.data.question_answering import Question, QuestionRows, read_questions
from pharos.data.train_tokenizer import Kind

CONTEXT = " ".join(TEXTS)
ASKED = Question(question="who built it?", context=CONTEXT, answer="Ptolemy", start=99)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_tokens_of_a_row_are_the_answer(kind: Kind, data: st.DataObject) -> None:
    """Answers of whole words: the span decodes to exactly those characters."""
    words = CONTEXT.split()
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)))
    start = len(" ".join([*words[:first], ""]))
    answer = " ".join(words[first : last + 1])
    question = Question(question="what?", context=CONTEXT, answer=answer, start=start)
    max_tokens = data.draw(st.integers(40, 120))
    rows = QuestionRows(
        [question], TOKENIZERS[kind], max_tokens=max_tokens, stride=25, max_question_tokens=6
    )
    found = []
    for i in range(len(rows)):
        row = rows.row(i, epoch=0)
        assert len(row["ids"]) <= max_tokens
        if row["end"]:
            places = rows.window(i).characters(int(row["start"]), int(row["end"]))
            found.append(CONTEXT[slice(*places)].strip())
    assert set(found) == {answer}


@settings(max_examples=30, deadline=None)
@given(st.integers(14, 60), st.integers(0, 8))
def test_windows_cover_the_context_and_overlap_by_the_stride(max_tokens: int, stride: int) -> None:
    if max_tokens - 3 - 5 <= stride:
        return
    rows = QuestionRows(
        [ASKED], WORDPIECE, max_tokens=max_tokens, stride=stride, max_question_tokens=5
    )
    context = WORDPIECE.encode(CONTEXT, add_special_tokens=False)
    covered: list[int] = []
    for i in range(len(rows)):
        row, window = rows.row(i, epoch=0), rows.window(i)
        shown = row["ids"][window.is_context].tolist()
        assert window.first == (len(covered) - stride if i else 0)
        assert (row["token_types"][window.is_context] == 1).all()
        covered = covered[: window.first] + shown
    assert covered == context


def test_windows_are_those_of_transformers() -> None:
    backend = tokenizers.Tokenizer.from_str(WORDPIECE.backend.to_str())
    their_tokenizer: Any = transformers.PreTrainedTokenizerFast
    theirs = their_tokenizer(tokenizer_object=backend)(
        ASKED.question,
        ASKED.context,
        max_length=60,
        stride=9,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_token_type_ids=True,
    )
    rows = QuestionRows([ASKED], WORDPIECE, max_tokens=60, stride=9, max_question_tokens=20)
    ours = [rows.row(i, epoch=0) for i in range(len(rows))]
    assert [row["ids"].tolist() for row in ours] == theirs["input_ids"]
    assert [row["token_types"].tolist() for row in ours] == theirs["token_type_ids"]


def test_an_answer_that_a_window_lacks_points_at_the_first_token() -> None:
    rows = QuestionRows([ASKED], WORDPIECE, max_tokens=80, stride=8)
    ends = [int(rows.row(i, epoch=0)["end"]) for i in range(len(rows))]
    assert len(ends) > 1 and 0 in ends and any(ends)
    nothing = Question(question="who fell?", context=CONTEXT)
    rows = QuestionRows([nothing], WORDPIECE, max_tokens=400, stride=4)
    row = rows.row(0, epoch=0)
    assert (len(rows), int(row["start"]), int(row["end"])) == (1, 0, 0)


def test_long_questions_are_cut_and_rows_know_their_question() -> None:
    long = Question(question="who " * 100, context="the lamp")
    rows = QuestionRows([ASKED, long], WORDPIECE, max_tokens=64, stride=8, max_question_tokens=10)
    last = len(rows) - 1
    assert rows.question_of(last) is long and rows.question_of(0) is ASKED
    assert np.count_nonzero(rows.row(last, epoch=0)["token_types"] == 0) == 12


def test_squad_and_records_give_the_same_questions(tmp_path: Path) -> None:
    answers = [{"text": "Ptolemy", "answer_start": 99}, {"text": "it", "answer_start": 113}]
    qas: list[dict[str, Any]] = [
        {"id": "1", "question": "who built it?", "answers": answers},
        {"id": "2", "question": "who fell?", "answers": [], "is_impossible": True},
    ]
    squad = {"data": [{"title": "P", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    (tmp_path / "a.json").write_text(json.dumps(squad))
    lists: list[dict[str, object]] = [
        {"answers": {"text": ["Ptolemy", "it"], "answer_start": [99, 113]}},
        {"answers": {"text": [], "answer_start": []}},
    ]
    flat: list[dict[str, object]] = [
        {"answer": "Ptolemy", "answer_start": 99},
        {"answer": None},
    ]
    for name, columns in (("a.jsonl", lists), ("b.jsonl", flat)):
        records = [
            {"id": qa["id"], "question": qa["question"], "context": CONTEXT, **found}
            for qa, found in zip(qas, columns, strict=True)
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, records)))
    expected = read_questions(tmp_path / "a.json")
    assert [question.answer for question in expected] == ["Ptolemy", None]
    assert read_questions(tmp_path / "a.jsonl") == read_questions(tmp_path / "b.jsonl") == expected


def test_an_answer_must_stand_where_it_is_said_to() -> None:
    with pytest.raises(TrainingError, match="is 'Ptolemy', but the context has 'tolemy ' at 100"):
        Question(question="who?", context=CONTEXT, answer="Ptolemy", start=100)
    with pytest.raises(TrainingError, match="has '' at 9999"):
        Question(question="who?", context=CONTEXT, answer="Ptolemy", start=9999)


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": [{"paragraphs": [{}]}]}')
    with pytest.raises(TrainingError, match="cannot be read as SQuAD's JSON"):
        read_questions(tmp_path / "a.json")
    record = {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": []}}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(TrainingError, match="record 0: answers is"):
        read_questions(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"question": "q", "context": "c"}')
    with pytest.raises(TrainingError, match="record 0 has no 'answers'"):
        read_questions(tmp_path / "b.jsonl")


def test_windows_that_would_not_move_on_are_refused() -> None:
    with pytest.raises(TrainingError, match="stride is 30, max_tokens 40"):
        QuestionRows([ASKED], WORDPIECE, max_tokens=40, stride=30, max_question_tokens=8)
