"""A classifier of texts, or of a text beside windows of another: a lane of the shared encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pharos.specialists.cards import Card
from pharos.specialists.shared_encoder import Row, SharedEncoder
from pharos.specialists.windows import (
    MAX_QUESTION_TOKENS,
    PAIR_SPECIAL,
    SINGLE_SPECIAL,
    Pairs,
    Tokens,
    cut,
)


class WindowRow(NamedTuple):
    """A row for the encoder, and the number of the text whose window it has."""

    owner: int
    row: Row


class WindowClassifier:
    """Reads windows. The lane has the card's name."""

    def __init__(self, shared: SharedEncoder, pairs: Pairs, folder: Path, card: Card) -> None:
        self.shared, self.pairs, self.card = shared, pairs, card
        shared.add(card.name, folder, card)

    def texts(self, texts: Sequence[str]) -> list[WindowRow]:
        """Every window of each text."""
        room = self.card.max_tokens - SINGLE_SPECIAL
        return [
            WindowRow(owner, self.pairs.single(self.card.name, tokens.ids[part].tolist()))
            for owner, tokens in enumerate(self.pairs.tokens(texts))
            for part in cut(len(tokens), room, self.card.stride)
        ]

    def windows(self, first: Tokens, second: Tokens) -> list[slice]:
        """The windows of the second text that there is room for beside the first."""
        first_len = min(len(first), MAX_QUESTION_TOKENS, self.card.max_tokens // 2)
        return cut(len(second), self.card.max_tokens - PAIR_SPECIAL - first_len, self.card.stride)

    def pair(self, first: Tokens, second: Tokens, part: slice) -> Row:
        first_len = min(len(first), MAX_QUESTION_TOKENS, self.card.max_tokens // 2)
        ids = first.ids[:first_len].tolist()
        return self.pairs.pair(self.card.name, ids, second.ids[part].tolist())

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """`[len(rows), C]`."""
        found = self.shared.run(rows)
        width = max(len(self.card.labels), 1)
        return np.array(found, dtype=np.float64).reshape(len(rows), width)

    def log_odds(self, rows: Sequence[Row], label: str) -> NDArray[np.float64]:
        """Of one label against all others; of a classifier with one output, that output."""
        logits = self.logits(rows)
        if logits.shape[1] == 1:
            return logits[:, 0]
        wanted = self.card.class_of(label)
        others = np.delete(logits, wanted, axis=1)
        against: NDArray[np.float64] = np.logaddexp.reduce(others, axis=1)
        return logits[:, wanted] - against
