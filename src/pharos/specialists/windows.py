"""Texts as tokens with their places, and pairs of a text and a window of another.

A window is a stretch of a text's tokens; a text that is too long is gone through in windows that
overlap. The last one begins earlier rather than being short, so each sees as much as it can. Tokens
of texts are remembered, for passages come up again from one question to the next.

Shapes: T tokens of a text.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import ModelError
from pharos.data.tokenizer import SpecialRole, Tokenizer
from pharos.specialists.shared_encoder import Row

REMEMBERED = 4096
"""Texts; a passage takes about 10 KB."""
MAX_QUESTION_TOKENS = 64
"""As in the rows that readers are trained on (`data.question_answering`)."""


@dataclass(frozen=True, eq=False, slots=True)
class Tokens:
    """`ids` `[T]`; `places` `[T, 2]`, the characters of each; `word` `[T]`, which word it is of."""

    ids: NDArray[np.int32]
    places: NDArray[np.int32]
    word: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


class Pairs:
    """Texts to tokens, and tokens to rows. Safe to be used by several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._first, self._between = _special(tokenizer, "cls"), _special(tokenizer, "sep")
        self._known: OrderedDict[str, Tokens] = OrderedDict()
        self._lock = Lock()

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Without special tokens."""
        with self._lock:
            found = {text: self._known[text] for text in texts if text in self._known}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        encodings = self._tokenizer.backend.encode_batch(new, add_special_tokens=False)
        for text, encoding in zip(new, encodings, strict=True):
            words = [-1 if word is None else word for word in encoding.word_ids]
            found[text] = Tokens(
                np.array(encoding.ids, dtype=np.int32),
                np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2),
                np.array(words, dtype=np.int32),
            )
        self._remember(found)
        return [found[text] for text in texts]

    def single(self, lane: str, ids: Sequence[int]) -> Row:
        return Row(lane, [self._first, *ids, self._between])

    def pair(self, lane: str, first: Sequence[int], second: Sequence[int]) -> Row:
        ids = [self._first, *first, self._between, *second, self._between]
        return Row(lane, ids, len(first) + 2)

    def _remember(self, found: dict[str, Tokens]) -> None:
        with self._lock:
            for text, tokens in found.items():
                self._known[text] = tokens
                self._known.move_to_end(text)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


SINGLE_SPECIAL, PAIR_SPECIAL = 2, 3
"""Special tokens around a text, and around and between two."""


def cut(num_tokens: int, room: int, stride: int) -> list[slice]:
    """Windows of `room` tokens, each with the last `stride` of the one before (the last one with
    more); a single one if all fit. At least one, even of nothing."""
    if num_tokens <= room:
        return [slice(0, num_tokens)]
    starts = [*range(0, num_tokens - room, room - stride), num_tokens - room]
    return [slice(start, start + room) for start in starts]


def rarest_shared(
    question: NDArray[np.int32], windows: Sequence[NDArray[np.int32]]
) -> NDArray[np.float64]:
    """How much of the question each window says: the share of its tokens, each weighted by how few
    of the windows have it (smoothed idf)."""
    asked = np.unique(question)
    has = np.array([np.isin(asked, window) for window in windows], dtype=np.float64)
    has = has.reshape(len(windows), len(asked))
    idf = np.log(1.0 + (len(windows) + 1) / (has.sum(axis=0) + 0.5))
    shares: NDArray[np.float64] = has @ idf / max(float(idf.sum()), 1e-9)
    return shares


def best_of(owners: Sequence[int], scores: NDArray[np.float64], at_most: int) -> list[int]:
    """Which windows to read, if `at_most` may be: the best of each owner in any case, then the best
    of the rest. In their order."""
    leading: dict[int, int] = {}
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    for i in order:
        leading.setdefault(owners[i], i)
    first = set(leading.values())
    rest = [i for i in order if i not in first]
    return sorted([*first, *rest[: max(0, at_most - len(first))]])


def _special(tokenizer: Tokenizer, role: SpecialRole) -> int:
    id_ = tokenizer.special_id(role)
    if id_ is None:
        raise ModelError(
            f"the tokenizer names no {role} token, which pairs of texts need; "
            "special_tokens_map.json must name it"
        )
    return id_
