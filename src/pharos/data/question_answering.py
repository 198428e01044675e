"""Rows for extractive question answering: a question, a context, and where the answer stands in it
(Rajpurkar et al. 2016, arXiv:1606.05250).

A context that is too long is gone through in windows, each of which has the last `stride` tokens of
the one before it. In a window that lacks the answer, and for a question that has none (SQuAD 2.0),
the first token, `[CLS]`, is to be pointed at.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from pharos.core.errors import TrainingError
from pharos.data.examples import check_room, encode, encoded_row, first_token
from pharos.data.records import Record, column, read_records, text_column
from pharos.data.rows import Row
from pharos.data.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The answer is `context[start : start + len(answer)]`; None if the context has none."""

    question: str
    context: str
    answer: str | None = None
    start: int = 0
    id: str = ""

    def __post_init__(self) -> None:
        if self.answer is None:
            return
        there = self.context[max(self.start, 0) :][: len(self.answer)]
        if there != self.answer or not self.answer.strip():
            raise TrainingError(
                f"question {self.id or self.question!r}: the answer is {self.answer!r}, but the "
                f"context has {there!r} at {self.start}; offsets count characters (not bytes)"
            )

    @property
    def span(self) -> tuple[int, int] | None:
        """The answer's characters, without surrounding space."""
        if self.answer is None:
            return None
        start = self.start + len(self.answer) - len(self.answer.lstrip())
        return start, start + len(self.answer.strip())


def read_questions(path: Path) -> list[Question]:
    """From SQuAD's JSON (`.json`), or from records with `question`, `context` and either SQuAD's
    `answers: {"text": [...], "answer_start": [...]}` or `answer` and `answer_start`. Of several
    answers the first counts."""
    if path.suffix.lower() == ".json":
        return list(_of_squad(path))
    return [_of_record(record, n) for n, record in enumerate(read_records(path))]


class QuestionRows:
    """`{"ids", "token_types", "start", "end"}`: the numbers of the answer's first and last token. A
    row is a window; `question_of(index)` is the question it belongs to."""

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        stride: int,
        max_question_tokens: int = 64,
    ) -> None:
        self.questions = questions
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_question_tokens = max_question_tokens
        self.stride = stride
        self._check()
        lengths = self._context_lengths()
        windows = [
            (n, window)
            for n, question in enumerate(questions)
            for window in range(self._num_windows(question, lengths[question.context]))
        ]
        self._windows: NDArray[np.int64] = np.array(windows, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._windows)

    def row(self, index: int, epoch: int) -> Row:
        window = self.window(index)
        span = self.question_of(index).span
        start, end = (0, 0) if span is None else window.tokens(*span)
        return {
            **encoded_row(window.encoding),
            "start": np.array(start, dtype=np.int32),
            "end": np.array(end, dtype=np.int32),
        }

    def question_of(self, index: int) -> Question:
        return self.questions[int(self._windows[index][0])]

    def window(self, index: int) -> "Window":
        """What row `index` shows of its context."""
        number = int(self._windows[index][1])
        asked = self._question(self.question_of(index))
        context = encode(self.tokenizer, self.question_of(index).context)
        places = context.offsets
        room = self._room(len(asked))
        context.truncate(room, self.stride)
        part = [context, *context.overflowing][number]
        encoding = self.tokenizer.backend.post_process(asked, part, add_special_tokens=True)
        return Window(encoding, places, number * (room - self.stride), len(part))

    def _check(self) -> None:
        check_room(self.tokenizer, self.max_tokens, is_pair=True)
        least = self._room(self.max_question_tokens)
        if self.max_question_tokens < 1 or not 0 <= self.stride < least:
            raise TrainingError(
                f"stride is {self.stride}, max_tokens {self.max_tokens} and max_question_tokens "
                f"{self.max_question_tokens}; windows overlap by the stride, which must be less "
                f"than what a long question leaves of them, {least}"
            )

    def _room(self, question_tokens: int) -> int:
        """The context tokens of a window."""
        special = self.tokenizer.backend.num_special_tokens_to_add(True)
        return self.max_tokens - special - question_tokens

    def _context_lengths(self) -> Mapping[str, int]:
        """A context is usually asked several questions, so each is counted once."""
        contexts = list(dict.fromkeys(question.context for question in self.questions))
        encoded = self.tokenizer.encode_batch(contexts, add_special_tokens=False)
        return {text: len(ids) for text, ids in zip(contexts, encoded, strict=True)}

    def _num_windows(self, question: Question, context_length: int) -> int:
        room = self._room(len(self._question(question)))
        return 1 + max(0, -(-(context_length - room) // (room - self.stride)))

    def _question(self, question: Question) -> Encoding:
        encoding = encode(self.tokenizer, question.question)
        encoding.truncate(self.max_question_tokens)
        return encoding


@dataclass(frozen=True, slots=True)
class Window:
    """A question with tokens `first` to `first + length` of its context, all of whose tokens stand
    at `places`."""

    encoding: Encoding
    places: Sequence[tuple[int, int]]
    first: int
    length: int

    def tokens(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last token that have one of the context's characters `start` to `end`;
        0 and 0 if they are not all in the window."""
        inside = [i for i, (s, e) in enumerate(self.places) if s < end and e > start and s < e]
        if not inside or inside[0] < self.first or inside[-1] >= self.first + self.length:
            return 0, 0
        return inside[0] + self._shift, inside[-1] + self._shift

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """The place in the context of the tokens `start` to `end`, both included."""
        return self.places[start - self._shift][0], self.places[end - self._shift][1]

    @property
    def is_context(self) -> NDArray[np.bool_]:
        """Which tokens may be part of an answer."""
        return np.array([text == 1 for text in self.encoding.sequence_ids])

    @property
    def _shift(self) -> int:
        return first_token(self.encoding, 1) - self.first


def _of_squad(path: Path) -> Iterator[Question]:
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    answers = [(a["text"], a["answer_start"]) for a in qa["answers"]]
                    yield _question(qa, paragraph["context"], answers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read as SQuAD's JSON ({error!r}); it is an object with data, "
            "paragraphs, qas and answers, or give records as .jsonl"
        ) from error


def _of_record(record: Record, number: int) -> Question:
    context = text_column(record, "context", number)
    text_column(record, "question", number)
    if "answer" in record:
        answer = record["answer"]
        start = None if answer is None else column(record, "answer_start", number)
        return _question(record, context, [] if answer is None else [(answer, start)])
    answers = column(record, "answers", number)
    try:
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"record {number}: answers is {answers!r}; it must be "
            '{"text": [...], "answer_start": [...]}, with empty lists where there is no answer'
        ) from error
    return _question(record, context, pairs)


def _question(
    record: Mapping[str, Any], context: str, answers: Sequence[tuple[str, Any]]
) -> Question:
    id_ = str(record.get("id", ""))
    if not answers:
        return Question(question=record["question"], context=context, id=id_)
    answer, start = answers[0]
    return Question(
        question=record["question"], context=context, answer=answer, start=int(start), id=id_
    )
