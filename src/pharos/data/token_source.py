"""Where tokens come from: documents one after another, as one long array.

`Shards` (memory-mapped files) is the one for training; `TokenArrays` holds everything in memory.
"""

from collections.abc import Iterable
from typing import Any, Protocol

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
    """A `TokenSource` in memory."""

    def __init__(self, documents: Iterable[Iterable[int] | NDArray[np.integer[Any]]]) -> None:
        arrays = [np.asarray(document, dtype=np.int32) for document in documents]
        self._tokens = np.concatenate([np.empty(0, dtype=np.int32), *arrays])
        self._ends = np.cumsum([0, *map(len, arrays)], dtype=np.int64)

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
