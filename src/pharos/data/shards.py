"""Token shards: the ids of a corpus in files that are mapped into memory, not read.

`Shards.open(folder)` sees all that `ShardWriter` wrote there (`shard_index` tells how a folder is
laid out), `split` holds a share of it out.
"""

import hashlib
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pharos.core import CorpusError
from pharos.data.shard_index import (
    DTYPES,
    ENDS,
    INDEX,
    TOKENIZER,
    UNFINISHED,
    ShardFile,
    ShardIndex,
    vocabulary_fingerprint,
)
from pharos.data.tokenizer import Tokenizer

CHUNK_BYTES = 1 << 20
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Shards:
    """The documents of a corpus as ids. A `Shards` may be a part of what its folder holds: see
    `split`. Copying one into another process costs nothing that grows with the tokens: the files
    are mapped there anew."""

    def __init__(
        self, folder: Path, index: ShardIndex, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> None:
        """Documents of `lengths` that begin at `starts` in the tokens of all files, one after the
        other. `Shards.open` makes one of a folder."""
        self.folder = folder
        self.index = index
        self.lengths = lengths
        self._starts = starts

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The shards in a folder. Raises CorpusError, naming the file, where there are none, or
        what is there does not add up."""
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise CorpusError(_missing_message(folder))
        index = ShardIndex.read(folder / INDEX)
        for shard in index.shards:
            _check_file(folder / f"{shard.name}.bin", shard.tokens * DTYPES[index.dtype].itemsize)
        lengths = [_lengths_of(folder, shard) for shard in index.shards]
        joined = np.concatenate([np.zeros(0, np.int64), *lengths])
        return cls(folder, index, np.cumsum(joined) - joined, joined)

    @property
    def num_documents(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        return int(self._ends[-1]) if len(self.lengths) else 0

    @property
    def vocab_size(self) -> int:
        return self.index.vocab_size

    def __len__(self) -> int:
        return self.num_documents

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder / TOKENIZER)

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises CorpusError unless the ids mean to `tokenizer` what they meant when written."""
        if vocabulary_fingerprint(tokenizer) != self.index.fingerprint:
            raise CorpusError(
                f"{self.folder} was written with another vocabulary ({self.vocab_size:,} tokens) "
                f"than this tokenizer's ({tokenizer.vocab_size:,}): take the one in "
                f"{self.folder / TOKENIZER}, or build the shards again"
            )

    def document(self, number: int) -> NDArray[np.int32]:
        """The ids of a document; a negative number counts from the end."""
        place = range(self.num_documents)[number]
        start = int(self._starts[place])
        return self._read(start, start + int(self.lengths[place]))

    def tokens(self, start: int, stop: int) -> NDArray[np.int32]:
        """Ids `start` to `stop` of all documents, one after the other."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(
                f"tokens {start:,} to {stop:,} of {self.num_tokens:,} were asked for; "
                "0 <= start <= stop <= num_tokens must hold"
            )
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        pieces = [np.zeros(0, np.int32)]
        while first <= last < self.num_documents and start < stop:
            following = min(self._run_end(first), last)
            begin = int(self._starts[first]) + start - self._begin(first)
            end = min(stop, int(self._ends[following])) - start + begin
            pieces.append(self._read(begin, end))
            start, first = start + end - begin, following + 1
        return np.concatenate(pieces)

    def select(self, documents: ArrayLike) -> "Shards":
        """Some of the documents, by number, in the order given."""
        chosen = np.asarray(documents, dtype=np.int64)
        return Shards(self.folder, self.index, self._starts[chosen], self.lengths[chosen])

    def check(self) -> None:
        """Read everything: raises CorpusError where a file is not what was written."""
        for shard in self.index.shards:
            if (found := _digest(self.folder, shard.name)) != shard.sha256:
                raise CorpusError(
                    f"{self.folder / shard.name}.bin and .idx have the SHA-256 {found}; the index "
                    f"says {shard.sha256}: copy them again, or build the shards again"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which would be copied as arrays."""
        mapped = ("_files", "_ends", "_jumps")
        return {name: value for name, value in vars(self).items() if name not in mapped}

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths)

    @cached_property
    def _jumps(self) -> NDArray[np.int64]:
        """The documents that the next one does not follow in the files."""
        return np.flatnonzero(self._starts[1:] != self._starts[:-1] + self.lengths[:-1])

    @cached_property
    def _files(self) -> list[NDArray[Any]]:
        dtype = DTYPES[self.index.dtype]
        return [
            _file(self.folder / f"{shard.name}.bin", dtype, shard.tokens)
            for shard in self.index.shards
        ]

    @cached_property
    def _file_ends(self) -> list[int]:
        return list(accumulate(shard.tokens for shard in self.index.shards))

    def _begin(self, number: int) -> int:
        return int(self._ends[number] - self.lengths[number])

    def _run_end(self, number: int) -> int:
        """The last of the documents that follow one another in the files from `number` on."""
        jump = int(np.searchsorted(self._jumps, number))
        return int(self._jumps[jump]) if jump < len(self._jumps) else self.num_documents - 1

    def _read(self, start: int, stop: int) -> NDArray[np.int32]:
        """From the tokens of all files."""
        ids = np.empty(stop - start, np.int32)
        filled = 0
        number = int(np.searchsorted(self._file_ends, start, side="right"))
        while filled < len(ids):
            file = self._files[number]
            begin = start + filled - (self._file_ends[number] - len(file))
            piece = file[begin : begin + len(ids) - filled]
            ids[filled : filled + len(piece)] = piece
            filled, number = filled + len(piece), number + 1
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise CorpusError(
                f"{self.folder} holds an id that its vocabulary of {self.vocab_size:,} has not, in "
                f"tokens {start:,} to {stop:,}: a file was damaged; build the shards again"
            )
        return ids


def split(shards: Shards, share: float, *, seed: int = 0) -> tuple[Shards, Shards]:
    """Those to train on, and those held out: `share` of the documents, drawn by `seed` and nothing
    else. Where that is less than one document (one long text), it is the last tokens of the last,
    which is cut in two."""
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must be between 0 and 1, 0.01 for example")
    if not shards.num_tokens:
        raise CorpusError(f"{shards.folder} holds no tokens; there is nothing to hold out")
    if share * shards.num_documents < 1:
        return _split_tail(shards, share)
    order = np.argsort(_mixed(np.arange(shards.num_documents, dtype=np.uint64), seed))
    held_out = np.zeros(shards.num_documents, bool)
    held_out[order[: round(share * shards.num_documents)]] = True
    return shards.select(np.flatnonzero(~held_out)), shards.select(np.flatnonzero(held_out))


def _split_tail(shards: Shards, share: float) -> tuple[Shards, Shards]:
    """As nanoGPT divides Shakespeare: the first tokens, and `share` of them at the end."""
    ends = np.cumsum(shards.lengths)
    cut = int(shards.num_tokens * (1 - share))
    before = np.clip(cut - (ends - shards.lengths), 0, shards.lengths)
    head, tail = np.flatnonzero(before), np.flatnonzero(shards.lengths - before)
    after = shards.lengths - before
    return (
        Shards(shards.folder, shards.index, shards._starts[head], before[head]),
        Shards(shards.folder, shards.index, (shards._starts + before)[tail], after[tail]),
    )


def _mixed(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Numbers to numbers that look random, no two alike (SplitMix64, Steele et al. 2014)."""
    step, first, second = (np.uint64(factor) for factor in _MIX)
    mixed = numbers + np.uint64(seed * _MIX[1] % (1 << 64)) + step
    mixed = (mixed ^ (mixed >> np.uint64(30))) * first
    mixed = (mixed ^ (mixed >> np.uint64(27))) * second
    return mixed ^ (mixed >> np.uint64(31))


def _missing_message(folder: Path) -> str:
    if (folder / UNFINISHED).is_file():
        return (
            f"the token shards in {folder} are not finished: run the command that was writing them "
            "once more, it goes on where it stopped"
        )
    if not folder.is_dir():
        return f"{folder} is not a folder; give one that `pharos corpus build` has written"
    return f"{folder} has no {INDEX}; give a folder that `pharos corpus build` has written"


def _lengths_of(folder: Path, shard: ShardFile) -> NDArray[np.int64]:
    """The tokens of each document, by a shard's index file, if that makes sense."""
    path = folder / f"{shard.name}.idx"
    ends = _file(path, ENDS, shard.documents)[:].astype(np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    if (ends < starts[:-1]).any() or starts[-1] != shard.tokens:
        raise CorpusError(
            f"{path} does not divide {shard.tokens:,} tokens into documents: it was damaged; copy "
            "it again, or build the shards again"
        )
    return np.diff(starts)


def _file(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    """A file of `length` numbers, mapped."""
    _check_file(path, length * dtype.itemsize)
    return np.memmap(path, dtype, mode="r", shape=(length,)) if length else np.empty(0, dtype)


def _check_file(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read: {error.strerror}; copy it again, or build the shards again"
        ) from error
    if not path.is_file() or found != size:
        raise CorpusError(
            f"{path} is {found:,} bytes long; the index says {size:,}: the file was cut short, or "
            "belongs elsewhere; copy it again, or build the shards again"
        )


def _digest(folder: Path, name: str) -> str:
    digest = hashlib.sha256()
    for suffix in (".bin", ".idx"):
        with (folder / f"{name}{suffix}").open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
