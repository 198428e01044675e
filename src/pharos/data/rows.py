"""What training reads: rows, by number.

A row is what becomes one sequence of a batch (for pairs: two), as arrays by name. A run reads the
rows 0, 1, 2, … of a `Stream`, and which row has which number depends on the seed alone: not on the
number of workers or devices, nor on how rows are grouped into batches. So the position of a run in
its data is one integer, and whoever knows it resumes exactly.

Whatever is random about a row draws from `row_generator`, which is made anew for each row.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, NDArray[Any]]


class Rows(Protocol):
    """A set of rows that can be gone through any number of times. Rows of another epoch may differ
    (another crop, another partner)."""

    def __len__(self) -> int: ...

    def row(self, index: int, epoch: int) -> Row: ...


class Stream(Protocol):
    """The rows of a whole run, in order and without end."""

    def __getitem__(self, number: int) -> Row: ...


def row_generator(purpose: str, seed: int, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on nothing but the arguments. Different purposes (shuffling,
    masking, …) of the same row draw independently."""
    name = repr((purpose, seed, *numbers)).encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
