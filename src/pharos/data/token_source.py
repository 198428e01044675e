"""Where tokens come from: documents one after another, as one long array.

`Shards` (memory-mapped files) is the one for training; `TokenArrays` holds everything in memory.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class TokenSource(Protocol):
    """Documents are numbered, and so are tokens: document 1 begins where document 0 ends.
    `lengths` has the tokens of each document. What `document` and `tokens` return is not to be
    written to."""

    @property
    def num_documents(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def lengths(self) -> NDArray[np.integer[Any]]: ...

    def document(self, index: int) -> NDArray[np.integer[Any]]: ...

    def tokens(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        """Tokens `start` to `stop`, across documents."""


class TokenArrays:
    """A `TokenSource` in memory: all tokens, and the length of each document."""

    def __init__(self, tokens: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> None:
        self._tokens = tokens
        self._ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @classmethod
    def of_documents(cls, documents: Iterable[Sequence[int] | NDArray[np.integer[Any]]]) -> Self:
        arrays = [np.asarray(document, dtype=np.int32) for document in documents]
        tokens = np.concatenate([np.empty(0, dtype=np.int32), *arrays])
        return cls(tokens, np.array([len(array) for array in arrays], dtype=np.int64))

    @property
    def num_documents(self) -> int:
        return len(self._ends) - 1

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    @property
    def lengths(self) -> NDArray[np.integer[Any]]:
        return np.diff(self._ends)

    def document(self, index: int) -> NDArray[np.integer[Any]]:
        return self._tokens[self._ends[index] : self._ends[index + 1]]

    def tokens(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        return self._tokens[start:stop]
