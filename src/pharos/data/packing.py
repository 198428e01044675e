"""From documents to rows of one length.

Two ways, for two uses:

- `BestFitRows` keeps documents whole where they fit and says which token belongs to which, so that
  none attends to another (`Causal() & Documents(...)`). A document longer than a row is cut into
  full rows and a rest. Places that are left over are padding: how many depends on the lengths, from
  one in a thousand to one in ten (docs/training.md).
- `ConcatRows` cuts the long array of all tokens wherever a row is full, as nanoGPT does. Nothing is
  padded, and a row's beginning may be the middle of a sentence; attention crosses documents.

Best fit decreasing: the longest piece first, each into the fullest row that still takes it. Pieces
of one length, and rows with one number of free places, are alike; so lengths are dealt in bulk, and
the time depends on how many *different* lengths there are (at most L) rather than on how many
documents. `test_packing.py` has the plain algorithm beside it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import TrainingError
from pharos.data.rows import Row, row_generator
from pharos.data.token_source import TokenSource

PADDING = -1
"""The document number of a place that holds no token."""

Integers = NDArray[np.integer[Any]]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingReport:
    """`num_cut` documents are longer than a row; they are `num_pieces - num_documents` cuts in
    all (documents without a token are not counted). `utilisation` is the share of places that
    hold a token. `num_left_out` tokens are in no row of an epoch."""

    num_rows: int
    num_documents: int
    num_tokens: int
    num_pieces: int
    num_cut: int
    num_left_out: int
    utilisation: float


class BestFitRows:
    """Every token of every document in exactly one row: `{"ids": [L], "document": [L]}`, the
    documents of a row numbered from 0, padding `PADDING` (with id 0). The rows of all epochs are
    the same; only their order changes."""

    def __init__(self, source: TokenSource, row_length: int) -> None:
        _check(source, row_length, least_tokens=1)
        self.source = source
        self.row_length = row_length
        pieces = _Pieces.of(np.asarray(source.lengths, dtype=np.int64), row_length)
        rows = best_fit(pieces.length, row_length)
        order = np.argsort(rows, kind="stable")
        self._pieces = pieces.taken(order)
        self._first = np.searchsorted(rows[order], np.arange(rows.max() + 2))
        self.report = self._report(pieces)

    def __len__(self) -> int:
        return len(self._first) - 1

    def row(self, index: int, epoch: int) -> Row:
        ids = np.zeros(self.row_length, dtype=np.int32)
        document = np.full(self.row_length, PADDING, dtype=np.int32)
        at = 0
        for number, piece in enumerate(self.pieces(index)):
            tokens = self.source.document(piece.document)[piece.start : piece.start + piece.length]
            ids[at : at + piece.length] = tokens
            document[at : at + piece.length] = number
            at += piece.length
        return {"ids": ids, "document": document}

    def pieces(self, index: int) -> Iterator["Piece"]:
        """What row `index` is made of, in order."""
        for i in range(self._first[index], self._first[index + 1]):
            yield self._pieces[i]

    def _report(self, pieces: "_Pieces") -> PackingReport:
        num_tokens = int(pieces.length.sum())
        return PackingReport(
            num_rows=len(self),
            num_documents=int(np.count_nonzero(pieces.start == 0)),
            num_tokens=num_tokens,
            num_pieces=len(pieces.length),
            num_cut=len(np.unique(pieces.document[pieces.start > 0])),
            num_left_out=0,
            utilisation=num_tokens / (len(self) * self.row_length),
        )


class ConcatRows:
    """All tokens in order, cut every `row_length`: `{"ids": [L]}`.

    An epoch begins at a token of its own and ends where it began, so each epoch's rows are other
    crops of the same text; epoch 0 begins at the first token. What does not fill the last row,
    fewer than `row_length` tokens, is left out of that epoch. Where an epoch passes the end of the
    tokens, one row has that end and the beginning after it, as it has the joints of documents.
    """

    def __init__(self, source: TokenSource, row_length: int, *, seed: int) -> None:
        _check(source, row_length, least_tokens=row_length)
        self.source = source
        self.row_length = row_length
        self.seed = seed

    def __len__(self) -> int:
        return self.source.num_tokens // self.row_length

    def row(self, index: int, epoch: int) -> Row:
        num_tokens = self.source.num_tokens
        start = (self.offset(epoch) + index * self.row_length) % num_tokens
        ids = self.source.tokens(start, min(start + self.row_length, num_tokens))
        if len(ids) < self.row_length:
            ids = np.concatenate([ids, self.source.tokens(0, self.row_length - len(ids))])
        return {"ids": ids.astype(np.int32)}

    def offset(self, epoch: int) -> int:
        """The token at which an epoch begins."""
        return _offset(self.source.num_tokens, self.seed, epoch)

    @property
    def report(self) -> PackingReport:
        """Here a cut is where a row ends within a document, in epoch 0."""
        ends = np.cumsum(self.source.lengths, dtype=np.int64)
        used = len(self) * self.row_length
        row_ends = np.arange(1, len(self) + 1, dtype=np.int64) * self.row_length
        cuts = row_ends[~np.isin(row_ends, ends)]
        num_documents = int(np.count_nonzero(self.source.lengths))
        return PackingReport(
            num_rows=len(self),
            num_documents=num_documents,
            num_tokens=self.source.num_tokens,
            num_pieces=num_documents + len(cuts),
            num_cut=len(np.unique(np.searchsorted(ends, cuts))),
            num_left_out=self.source.num_tokens - used,
            utilisation=1.0,
        )


@lru_cache(maxsize=64)
def _offset(num_tokens: int, seed: int, epoch: int) -> int:
    if epoch == 0:
        return 0
    return int(row_generator("offset", seed, epoch).integers(num_tokens))


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start` to `start + length` of a document."""

    document: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class _Pieces:
    """`Piece`s, as arrays."""

    document: Int64s
    start: Int64s
    length: Int64s

    @classmethod
    def of(cls, lengths: Integers, row_length: int) -> "_Pieces":
        """Full rows of each document, and its rest."""
        counts = -(-lengths // row_length)
        document = np.repeat(np.arange(len(lengths)), counts)
        first = np.cumsum(counts) - counts
        start = (np.arange(len(document)) - first[document]) * row_length
        length = np.minimum(lengths[document] - start, row_length)
        return cls(document, start.astype(np.int64), length.astype(np.int64))

    def taken(self, order: Int64s) -> "_Pieces":
        return _Pieces(self.document[order], self.start[order], self.length[order])

    def __getitem__(self, index: int) -> Piece:
        return Piece(int(self.document[index]), int(self.start[index]), int(self.length[index]))


def best_fit(lengths: Integers, capacity: int) -> Int64s:
    """The row of each piece, by best fit decreasing. Each length is 1 to `capacity`."""
    # Sixteen bits, where they are enough, are sorted in one go without comparisons.
    order = np.argsort((capacity - lengths).astype(np.min_scalar_type(capacity)), kind="stable")
    rows = np.empty(len(lengths), dtype=np.int64)
    open_rows = _OpenRows(capacity)
    begin = 0
    distinct, counts = np.unique(lengths, return_counts=True)
    for length, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        rows[order[begin : begin + count]] = open_rows.place(length, count)
        begin += count
    return rows


class _OpenRows:
    """Rows by the places they have left. `_rows[free]` has runs of row numbers, `[first, last)`,
    oldest first; `_which` has bit `free` set where there are any."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_rows = 0
        self._rows: dict[int, deque[Int64s]] = {}
        self._which = 0

    def place(self, length: int, count: int) -> Int64s:
        """The rows that take `count` pieces of that length. The fullest row that takes a piece
        still is the fullest that takes one after it, as long as there is room for another: so a
        row with `free` places takes `free // length` pieces."""
        placed = []
        while count:
            free = self._tightest(length)
            each = free // length
            rows = self._take(free, at_most=-(-count // each))
            full = min(count, len(rows) * each)
            placed.append(np.repeat(rows, each)[:full])
            in_last = full - (len(rows) - 1) * each
            self._put(free - each * length, rows[:-1])
            self._put(free - in_last * length, rows[-1:])
            count -= full
        return np.concatenate(placed)

    def _tightest(self, length: int) -> int:
        """The fewest free places, at least `length`, that an open row has; those of a new row if
        there is none."""
        enough = self._which >> length
        return length + (enough & -enough).bit_length() - 1 if enough else self.capacity

    def _take(self, free: int, *, at_most: int) -> Int64s:
        """Some open rows with `free` places, or new ones."""
        if not self._which >> free & 1:
            first, self.num_rows = self.num_rows, self.num_rows + at_most
            return np.arange(first, self.num_rows)
        runs = self._rows[free]
        rows = runs.popleft()
        if len(rows) > at_most:
            runs.appendleft(rows[at_most:])
        if not runs:
            self._which &= ~(1 << free)
        return rows[:at_most]

    def _put(self, free: int, rows: Int64s) -> None:
        if free and len(rows):
            self._rows.setdefault(free, deque()).append(rows)
            self._which |= 1 << free


def _check(source: TokenSource, row_length: int, *, least_tokens: int) -> None:
    if row_length < 2:
        raise ValueError(f"row_length is {row_length}; a row needs at least 2 tokens")
    if source.num_tokens < least_tokens:
        raise TrainingError(
            f"the data has {source.num_tokens:,} tokens, fewer than the {least_tokens:,} of one "
            "row; use more text, or a shorter sequence_length"
        )
