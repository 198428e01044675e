"""The folder of token shards: what is in it, and the list that says so.

    index.json     what the ids are (dtype, vocabulary, its fingerprint) and which files there are
    00000.bin      the ids of all its documents, one after the other, little-endian
    00000.idx      where each of them ends in it, counted in tokens: int64, little-endian
    tokenizer/     what made the ids, and makes text of them again

A shard's two files are complete, on the disk, before any list names them; the index is the last
file to be written, so a folder that has one is whole. Until then `unfinished.json` lists the shards
that are complete, and a writer that was killed goes on behind the last of them. A document is never
divided between two shards.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from pharos.core import CorpusError, ModelError
from pharos.core.json_files import read_object
from pharos.data.tokenizer import Tokenizer

FORMAT = 1
INDEX = "index.json"
UNFINISHED = "unfinished.json"
TOKENIZER = "tokenizer"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
ENDS: np.dtype[Any] = np.dtype("<i8")
MOST_IDS = 1 << 31
_NAME = re.compile(r"\d{5,9}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def vocabulary_fingerprint(tokenizer: Tokenizer) -> str:
    """Alike for two tokenizers whose ids mean the same tokens; SHA-256."""
    tokens = sorted(tokenizer.vocabulary().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps([tokenizer.kind, tokens]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFile:
    """A pair of files, `NAME.bin` and `NAME.idx`; `sha256` is that of the two, in this order."""

    name: str
    documents: int
    tokens: int
    sha256: str

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ValueError(f"a shard is called {self.name!r}; its name must be five digits")
        if not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"the sha256 of shard {self.name} is {self.sha256!r}")
        _check_count(f"documents of shard {self.name}", self.documents)
        _check_count(f"tokens of shard {self.name}", self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """What `index.json` says. `settings` is how the ids were made, for whoever asks: it must be the
    same for a writer to go on. `texts` is a digest of all texts that the shards were made of."""

    dtype: str
    vocab_size: int
    fingerprint: str
    settings: Mapping[str, Any]
    texts: str = ""
    shards: tuple[ShardFile, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}")
        _check_count("vocab_size", self.vocab_size)
        if self.vocab_size > min(MOST_IDS, 1 << 8 * DTYPES[self.dtype].itemsize):
            raise ValueError(f"a vocab_size of {self.vocab_size:,} does not fit {self.dtype}")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ValueError("a shard is named twice")

    @property
    def num_documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises CorpusError for what no writer of ours has written."""
        try:
            content = read_object(path)
        except ModelError as error:
            raise CorpusError(f"{error}, or build the shards again") from error
        if content.get("format") != FORMAT:
            raise CorpusError(
                f"{path}: format is {content.get('format')!r}; this version of Pharos reads format "
                f"{FORMAT}: build the shards again"
            )
        try:
            shards = tuple(ShardFile(**shard) for shard in content.pop("shards"))
            return cls(**content, shards=shards)
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(
                f"{path} is not an index of token shards: {error}; build them again"
            ) from error

    def write(self, path: Path) -> None:
        """Replace the file; after a crash at any moment it is the old one or this."""
        scratch = path.with_name(f"{path.name}.new")
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(scratch, path)


def put_in_place(scratch: Path, path: Path) -> None:
    """Rename a file that is complete, and see the new name to the disk."""
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
