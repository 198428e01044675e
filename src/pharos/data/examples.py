"""Supervised rows from records: texts with a label, words with tags, pairs that belong together.

Labels are checked when the rows are made; texts are encoded when a row is asked for, which is in
the loader's worker processes. Extractive question answering is in `question_answering.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from pharos.core.errors import TrainingError
from pharos.data.records import Record, column, text_column
from pharos.data.rows import Row
from pharos.data.tokenizer import Tokenizer

IGNORED = -100
"""The label of a token that is not a target (that of torch's `cross_entropy`)."""


def label_names(records: Sequence[Record], name: str) -> list[str]:
    """The labels in a column, each once: by value if all are numbers, else by letter. For tags, a
    record has a list of them."""
    found: set[str] = set()
    for number, record in enumerate(records):
        value = column(record, name, number)
        found.update(map(str, value) if isinstance(value, list | tuple) else [str(value)])
    return sorted(found, key=int) if all(map(_is_int, found)) else sorted(found)


def _is_int(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


class TextRows:
    """Sequence classification: `{"ids", "token_types", "label"}`. With `text_b` a row is a pair of
    texts (premise and hypothesis, say). Too long a pair loses the end of its longer text.

    A label is its place in `labels`; a list of labels, which may be empty, is for each of `labels`
    1 or 0. With None, a label is a number, to be predicted as such."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        labels: Sequence[str] | None,
        text: str = "text",
        text_b: str | None = None,
        label: str = "label",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        check_room(tokenizer, max_tokens, is_pair=text_b is not None)
        self._texts = [text_column(record, text, n) for n, record in enumerate(records)]
        self._texts_b = text_b and [text_column(r, text_b, n) for n, r in enumerate(records)]
        values = [column(record, label, n) for n, record in enumerate(records)]
        self._labels = _label_array(values, label, labels)

    def __len__(self) -> int:
        return len(self._texts)

    def row(self, index: int, epoch: int) -> Row:
        a = encode(self.tokenizer, self._texts[index])
        b = encode(self.tokenizer, self._texts_b[index]) if self._texts_b else None
        encoding = joined(self.tokenizer, a, b, self.max_tokens)
        return {**encoded_row(encoding), "label": np.asarray(self._labels[index])}


class TagRows:
    """Token classification: `{"ids", "token_types", "labels"}`. A record has a list of words and a
    list of tags. The first piece of each word is labelled, the others and special tokens are
    `IGNORED`.

    The words are joined by blanks and encoded as one text, and a word's pieces are found by their
    place in it. So they are the pieces that a model of any kind saw in pre-training, which those
    of words encoded one by one are not where the blank is part of a piece (GPT-2, RoBERTa)."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        labels: Sequence[str],
        words: str = "tokens",
        tags: str = "tags",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        check_room(tokenizer, max_tokens, is_pair=False)
        self._words = [_list(record, words, n) for n, record in enumerate(records)]
        self._tags = [
            _ids(_list(record, tags, n), tags, labels) for n, record in enumerate(records)
        ]
        for n, (words_there, tags_there) in enumerate(zip(self._words, self._tags, strict=True)):
            if len(words_there) != len(tags_there):
                raise TrainingError(
                    f"record {n} has {len(words_there)} {words} and {len(tags_there)} {tags}; "
                    "each word needs one tag"
                )

    def __len__(self) -> int:
        return len(self._words)

    def row(self, index: int, epoch: int) -> Row:
        words, tags = self._words[index], self._tags[index]
        text = encode(self.tokenizer, " ".join(words))
        encoding = joined(self.tokenizer, text, None, self.max_tokens)
        labels = np.full(len(encoding.ids), IGNORED, dtype=np.int32)
        first = first_token(encoding, 0)
        for tag, piece in zip(tags, first_pieces(words, text.offsets), strict=True):
            if piece is not None:
                labels[first + piece] = tag
        return {**encoded_row(encoding), "labels": labels}


class PairRows:
    """Two texts that belong together (question and answer, caption and text), for contrastive
    training: `{"first_ids", "second_ids"}`, each with its own special tokens, and each cut at its
    end."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        text_a: str,
        text_b: str,
        tokenizer_b: Tokenizer | None = None,
    ) -> None:
        self.tokenizers = (tokenizer, tokenizer_b or tokenizer)
        self.max_tokens = max_tokens
        for tokenizer in self.tokenizers:
            check_room(tokenizer, max_tokens, is_pair=False)
        self._texts = [
            (text_column(record, text_a, n), text_column(record, text_b, n))
            for n, record in enumerate(records)
        ]

    def __len__(self) -> int:
        return len(self._texts)

    def row(self, index: int, epoch: int) -> Row:
        ids = [
            joined(tokenizer, encode(tokenizer, text), None, self.max_tokens).ids
            for tokenizer, text in zip(self.tokenizers, self._texts[index], strict=True)
        ]
        return {
            "first_ids": np.array(ids[0], dtype=np.int32),
            "second_ids": np.array(ids[1], dtype=np.int32),
        }


def encode(tokenizer: Tokenizer, text: str) -> Encoding:
    """A text as its tokens alone, with their places."""
    return tokenizer.backend.encode(text, add_special_tokens=False)


def joined(tokenizer: Tokenizer, a: Encoding, b: Encoding | None, max_tokens: int) -> Encoding:
    """One text or two with special tokens around them, cut to `max_tokens` in all: the longer
    text first. Cuts `a` and `b` themselves. Places are to be read from those, not from the result:
    what trims blanks off them does so once more."""
    room = max_tokens - tokenizer.backend.num_special_tokens_to_add(b is not None)
    if b is None:
        a.truncate(room)
    elif len(a) + len(b) > room:
        keep_a = min(len(a), max(room - len(b), room - room // 2))
        a.truncate(keep_a)
        b.truncate(room - keep_a)
    return tokenizer.backend.post_process(a, b, add_special_tokens=True)


def check_room(tokenizer: Tokenizer, max_tokens: int, *, is_pair: bool) -> None:
    special = tokenizer.backend.num_special_tokens_to_add(is_pair)
    if max_tokens < special + 1 + is_pair:
        raise TrainingError(
            f"max_tokens is {max_tokens}, of which {special} are special tokens; make it at least "
            f"{special + 1 + is_pair}, and large enough for the texts"
        )


def encoded_row(encoding: Encoding) -> dict[str, Any]:
    """Tokens, and which of the two texts each is of."""
    return {
        "ids": np.array(encoding.ids, dtype=np.int32),
        "token_types": np.array(encoding.type_ids, dtype=np.int32),
    }


def first_token(encoding: Encoding, text: int) -> int:
    """Where the tokens of the first (0) or second (1) text begin."""
    numbers = encoding.sequence_ids
    return numbers.index(text) if text in numbers else len(numbers)


def first_pieces(words: Sequence[str], places: Sequence[tuple[int, int]]) -> list[int | None]:
    """For each word of a text joined by blanks, the first token that has a character of it; None
    for a word without a token: cut off, normalised away, or in a token with the word before."""
    pieces: list[int | None] = []
    at = i = 0
    for word in words:
        while i < len(places) and (places[i][1] <= at or places[i][0] == places[i][1]):
            i += 1
        is_here = i < len(places) and places[i][0] < at + len(word)
        pieces.append(i if is_here else None)
        i += is_here
        at += len(word) + 1
    return pieces


def _list(record: Record, name: str, number: int) -> list[str]:
    value = column(record, name, number)
    if not isinstance(value, list):
        raise TrainingError(f"record {number}: {name} is {value!r}; it must be a list")
    return [str(item) for item in value]


def _ids(values: Sequence[Any], name: str, labels: Sequence[str]) -> np.ndarray[Any, Any]:
    numbers = {label: number for number, label in enumerate(labels)}
    for value in values:
        if str(value) not in numbers:
            raise TrainingError(
                f"{name} {value!r} is none of the labels {', '.join(labels)}; correct it, or add "
                "it to the labels"
            )
    return np.array([numbers[str(value)] for value in values], dtype=np.int32)


def _label_array(
    values: Sequence[Any], name: str, labels: Sequence[str] | None
) -> np.ndarray[Any, Any]:
    if labels is None:
        return _numbers(values, name)
    if not any(isinstance(value, list) for value in values):
        return _ids(values, name, labels)
    if not all(isinstance(value, list) for value in values):
        raise TrainingError(f"{name} is a list in some records only; make it one in all of them")
    hot = np.zeros((len(values), len(labels)), dtype=np.float32)
    for line, value in zip(hot, values, strict=True):
        line[_ids(value, name, labels)] = 1
    return hot


def _numbers(values: Sequence[Any], name: str) -> np.ndarray[Any, Any]:
    try:
        return np.array([float(value) for value in values], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"{name} is not a number everywhere ({error}); give `labels` to predict classes"
        ) from error
