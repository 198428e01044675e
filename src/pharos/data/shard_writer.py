"""Writes token shards: one writer at a time, whole shards or none, on from where one was killed."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pharos.core import CorpusError
from pharos.data.shard_index import (
    DTYPES,
    ENDS,
    INDEX,
    TOKENIZER,
    UNFINISHED,
    ShardFile,
    ShardIndex,
    put_in_place,
    vocabulary_fingerprint,
)
from pharos.data.shards import Shards
from pharos.data.tokenizer import Tokenizer

LOCK = "writer.lock"
TOKENS_PER_SHARD = 100_000_000


class ShardWriter:
    """Documents into shards. `index` says what is there already: the documents that an earlier
    writer, which was killed, completed. They are not written again.

    with ShardWriter(folder, tokenizer, settings={}) as writer:
        for ids, digest in documents[writer.index.num_documents :]:
            writer.write(ids, digest)
        shards = writer.finish()
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        settings: Mapping[str, Any],
        tokens_per_shard: int = TOKENS_PER_SHARD,
    ) -> None:
        """`settings` is how the ids are made. Raises CorpusError if the folder holds shards that
        are finished, or a part of what another tokenizer or other settings made."""
        if tokens_per_shard < 1:
            raise ValueError(f"tokens_per_shard is {tokens_per_shard}; it must be at least 1")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._limit = tokens_per_shard
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CorpusError(
                f"another process is writing to {folder}; wait for it, or name another folder"
            ) from None
        try:
            settings = {**settings, "tokens_per_shard": tokens_per_shard}
            self.index = _begun(folder, _empty_index(tokenizer, settings))
            tokenizer.save(folder / TOKENIZER)
        except BaseException:
            self._lock.release()
            raise
        self._draft: _Draft | None = None
        self._texts = self.index.texts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._draft is not None:
                self._draft.file.close()  # which raises where the disk is full
        finally:
            self._lock.release()

    def write(self, ids: Sequence[int] | NDArray[Any], digest: str) -> None:
        """Add a document; `digest` stands for its text. A shard that is full is completed."""
        array = np.asarray(ids)
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) < self.index.vocab_size:
            raise CorpusError(
                f"a document has ids from {array.min()} to {array.max()}; this vocabulary has 0 "
                f"to {self.index.vocab_size - 1}: take the tokenizer that made them"
            )
        if self._draft is None:
            self._draft = _Draft(self.folder, f"{len(self.index.shards):05d}")
        self._draft.add(array.astype(DTYPES[self.index.dtype]))
        self._texts = chained(self._texts, digest)
        if self._draft.num_tokens >= self._limit:
            self._complete(self._draft)

    def finish(self) -> Shards:
        """Complete the last shard, and write the index."""
        if self._draft is not None:
            self._complete(self._draft)
        if not self.index.shards:
            raise CorpusError(f"no document is left to be written to {self.folder}")
        self.index.write(self.folder / INDEX)
        (self.folder / UNFINISHED).unlink()
        return Shards.open(self.folder)

    def _complete(self, draft: "_Draft") -> None:
        shards = (*self.index.shards, draft.complete())
        self.index = replace(self.index, shards=shards, texts=self._texts)
        self.index.write(self.folder / UNFINISHED)
        self._draft = None


class _Draft:
    """A shard that is being written, under names that nobody looks for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.num_tokens = 0
        self.file: IO[bytes] = (folder / f"{name}.bin.new").open("wb")
        self._path = folder / name
        self._hash = hashlib.sha256()
        self._ends: list[int] = []

    def add(self, ids: NDArray[Any]) -> None:
        data = ids.tobytes()
        self.file.write(data)
        self._hash.update(data)
        self.num_tokens += len(ids)
        self._ends.append(self.num_tokens)

    def complete(self) -> ShardFile:
        ends = np.array(self._ends, ENDS).tobytes()
        self._hash.update(ends)
        with self._path.with_suffix(".idx.new").open("wb") as file:
            file.write(ends)
            _flush(file)
        _flush(self.file)
        self.file.close()
        for suffix in (".bin", ".idx"):
            put_in_place(self._path.with_suffix(f"{suffix}.new"), self._path.with_suffix(suffix))
        return ShardFile(
            name=self._path.name,
            documents=len(self._ends),
            tokens=self.num_tokens,
            sha256=self._hash.hexdigest(),
        )


def chained(before: str, digest: str) -> str:
    """A digest of all texts up to one, from that of all before it and its own."""
    return hashlib.blake2b(f"{before} {digest}".encode(), digest_size=16).hexdigest()


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _empty_index(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> ShardIndex:
    vocab_size = max(tokenizer.vocabulary().values(), default=-1) + 1
    dtype = next((d for d in DTYPES if vocab_size <= 1 << 8 * DTYPES[d].itemsize), "uint32")
    return ShardIndex(
        dtype=dtype,
        vocab_size=vocab_size,
        fingerprint=vocabulary_fingerprint(tokenizer),
        settings=settings,
    )


def _begun(folder: Path, wanted: ShardIndex) -> ShardIndex:
    """What an earlier writer completed here, if it was to write the same; else nothing."""
    if (folder / INDEX).exists():
        raise CorpusError(f"{folder} holds token shards already; name another folder")
    if not (folder / UNFINISHED).exists():
        return wanted
    begun = ShardIndex.read(folder / UNFINISHED)
    if replace(begun, texts="", shards=()) == wanted:
        return begun
    changed = [
        f"{name} was {begun.settings.get(name)!r} and is {wanted.settings.get(name)!r}"
        for name in sorted({*begun.settings, *wanted.settings})
        if begun.settings.get(name) != wanted.settings.get(name)
    ] or ["the tokenizer is another"]
    raise CorpusError(
        f"{folder} holds a part of other shards ({'; '.join(changed)}): go on with what they were "
        "begun with, remove the folder, or name another"
    )
