"""A recipe's labelled records as the rows that a run reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pharos.core.errors import TrainingError
from pharos.data.examples import PairRows, TagRows, TextRows, label_names
from pharos.data.order import Shuffled
from pharos.data.question_answering import Question, QuestionRows, read_questions
from pharos.data.records import Record, read_records
from pharos.data.rows import Rows, row_generator
from pharos.data.tokenizer import Tokenizer
from pharos.train.data_section import RecordData
from pharos.train.text_data import Data

Build = Callable[[RecordData, Sequence[Any], Tokenizer, tuple[str, ...] | None], Rows]


def record_data(
    data: RecordData, objective: str, tokenizer: Tokenizer, *, is_number: bool, seed: int
) -> Data:
    """The stream, the validation rows and the labels for a supervised objective. A label that
    `is_number` is predicted as such, by a head of one output."""
    training, validation = _records(data, objective, seed)
    labels = None if is_number else _labels(data, objective, training)
    build = BUILDERS[objective]
    rows = build(data, training, tokenizer, labels)
    return Data(
        stream=Shuffled(rows, seed),
        validation=build(data, validation, tokenizer, labels) if validation else None,
        summary=f"{len(training):,} examples" + (f", {len(labels)} labels" if labels else ""),
        labels=("number",) if is_number else labels,
    )


def _records(data: RecordData, objective: str, seed: int) -> tuple[list[Any], list[Any]]:
    found = _all_records(data.records, objective)
    if isinstance(data.validation, str):
        return found, _all_records(Path(data.validation), objective)
    order = row_generator("split", seed).permutation(len(found))
    held_out = set(order[: round(data.validation * len(found))].tolist())
    kept = [record for i, record in enumerate(found) if i not in held_out]
    return kept, [found[i] for i in sorted(held_out)]


def _all_records(path: Path, objective: str) -> list[Any]:
    read = read_questions if objective == "question_answering" else read_records
    return list(read(path))


def record_texts(data: RecordData, objective: str) -> Iterator[str]:
    """Every text in the records, for a tokenizer to be learned from: those that will be held out
    included."""
    for record in _all_records(data.records, objective):
        is_question = isinstance(record, Question)
        yield from _texts_in([record.question, record.context] if is_question else record)


def _texts_in(value: Any) -> Iterator[str]:
    """However deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner)


def _labels(data: RecordData, objective: str, records: Sequence[Record]) -> tuple[str, ...] | None:
    column = {"sequence_classification": data.label, "token_classification": data.tags}
    if objective not in column:
        return None
    return data.labels or tuple(label_names(records, column[objective]))


def _texts(
    data: RecordData,
    records: Sequence[Record],
    tokenizer: Tokenizer,
    labels: tuple[str, ...] | None,
) -> Rows:
    return TextRows(
        records,
        tokenizer,
        max_tokens=data.max_tokens,
        labels=labels,
        text=data.text,
        text_b=data.text_b,
        label=data.label,
    )


def _tags(
    data: RecordData,
    records: Sequence[Record],
    tokenizer: Tokenizer,
    labels: tuple[str, ...] | None,
) -> Rows:
    assert labels is not None
    return TagRows(
        records,
        tokenizer,
        max_tokens=data.max_tokens,
        labels=labels,
        words=data.words,
        tags=data.tags,
    )


def _questions(
    data: RecordData,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    labels: tuple[str, ...] | None,
) -> Rows:
    return QuestionRows(questions, tokenizer, max_tokens=data.max_tokens, stride=data.stride)


def _pairs(
    data: RecordData,
    records: Sequence[Record],
    tokenizer: Tokenizer,
    labels: tuple[str, ...] | None,
) -> Rows:
    return PairRows(
        records,
        tokenizer,
        max_tokens=data.max_tokens,
        text_a=data.text,
        text_b=data.text_b or "text_b",
    )


BUILDERS: Mapping[str, Build] = {
    "sequence_classification": _texts,
    "token_classification": _tags,
    "question_answering": _questions,
    "info_nce": _pairs,
    "sigmoid_pairs": _pairs,
}

USED = {
    "sequence_classification": {"text", "text_b", "label", "labels"},
    "token_classification": {"words", "tags", "labels"},
    "question_answering": {"stride"},
    "info_nce": {"text", "text_b"},
    "sigmoid_pairs": {"text", "text_b"},
    "sft": {"documents", "format", "template", "packing", "too_long"},
    "dpo": {"format", "template", "too_long"},
    "reward": {"format", "template", "too_long"},
    "ppo": {"text", "label", "template"},
    "grpo": {"text", "label", "template"},
}
"""By objective, the keys of `data` that it heeds, beside those that all do."""


def check_keys(data: RecordData, objective: str) -> None:
    """Raises TrainingError for an objective that has no use for records, and for a key that would
    be ignored."""
    if objective not in USED:
        raise TrainingError(
            f"objective.name is {objective}, which learns from texts: give data.sources instead of "
            f"data.train; records are for {', '.join(USED)}"
        )
    optional = set().union(*USED.values())
    for each in fields(data):
        is_given = getattr(data, each.name) != each.default
        if each.name in optional - USED[objective] and is_given:
            raise TrainingError(f"data.{each.name} is not heeded by {objective}; leave it out")
