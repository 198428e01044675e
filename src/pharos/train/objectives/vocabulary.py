"""What objectives ask of a tokenizer, as plain arrays and numbers: a worker that makes examples
needs no tokenizer.

Shapes: V tokens of the vocabulary.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import TrainingError
from pharos.data.tokenizer import ROLES, SpecialRole, Tokenizer

SPACES = ("Ġ", "Ċ", "ĉ", "č", "▁")
"""What a token that begins a word begins with, where vocabularies write blanks as letters."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vocabulary:
    """`ids` are those of the special tokens by role, `sentinels` those of `<extra_id_0>`,
    `<extra_id_1>` and so on, and `starts_word_V` says which tokens may be the first of a word
    (default: each is a word)."""

    size: int
    ids: Mapping[SpecialRole, int] = field(default_factory=dict)
    special_ids: frozenset[int] = frozenset()
    sentinels: tuple[int, ...] = ()
    starts_word_V: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        ids = {role: id_ for role in ROLES if (id_ := tokenizer.special_id(role)) is not None}
        sentinels = tuple(_sentinels(tokenizer))
        special_ids = tokenizer.special_ids | set(ids.values()) | set(sentinels)
        return cls(
            size=tokenizer.vocab_size,
            ids=ids,
            special_ids=frozenset(special_ids),
            sentinels=sentinels,
            starts_word_V=word_starts(tokenizer),
        )

    def id_of(self, role: SpecialRole, why: str) -> int:
        """Raises TrainingError if there is no such token; `why` says who needs it."""
        if role not in self.ids:
            raise TrainingError(
                f"the tokenizer has no {role} token, and {why}; name one as {role}_token in "
                "tokenizer_config.json, or train a tokenizer that has it"
            )
        return self.ids[role]

    @property
    def pad_id(self) -> int:
        """What padding is filled with: any id will do, for padding is told by its place."""
        return self.ids.get("pad", 0)

    def marks_of_special(self) -> NDArray[np.bool_]:
        """`[V]`."""
        is_special_V = np.zeros(self.size, dtype=bool)
        is_special_V[[id_ for id_ in self.special_ids if id_ < self.size]] = True
        return is_special_V


def _sentinels(tokenizer: Tokenizer) -> Iterator[int]:
    for i in count():
        id_ = tokenizer.token_id(f"<extra_id_{i}>")
        if id_ is None:
            return
        yield id_


def word_starts(tokenizer: Tokenizer) -> NDArray[np.bool_] | None:
    """By token, whether it may be the first of a word. A WordPiece vocabulary marks the others; one
    that keeps blanks marks the first ones. None where tokens tell nothing of words (characters)."""
    tokens_V = np.full(tokenizer.vocab_size, "", dtype=object)
    for token, id_ in tokenizer.vocabulary().items():
        if id_ < len(tokens_V):
            tokens_V[id_] = token
    mark = _continuation_mark(tokenizer)
    if mark is not None:
        return np.array([not token.startswith(mark) for token in tokens_V])
    begins_V = np.array([token.startswith(SPACES) for token in tokens_V])
    return begins_V if begins_V.any() else None


def _continuation_mark(tokenizer: Tokenizer) -> str | None:
    prefix: Any = getattr(tokenizer.backend.model, "continuing_subword_prefix", None)
    return prefix or None
