"""One file, from the disk to passages: what a worker does. Imports no torch and no lancedb."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from pharos.core import Document
from pharos.data.chunking import Chunk, ChunkConfig, chunk
from pharos.data.deduplication import content_hash, signature
from pharos.data.discover import SourceFile
from pharos.data.parsing import ParseLimits, parse
from pharos.data.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A file to parse, or a `document` that was parsed before from a file with this hash."""

    file: SourceFile
    document: Document | None = None
    file_hash: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A parsed document, its passages, and what duplicates are recognised by."""

    file: SourceFile
    file_hash: str
    document: Document
    chunks: list[Chunk]
    text_hash: str
    signature: bytes


def prepare(
    task: Task, *, tokenizer_file: Path, chunking: ChunkConfig, limits: ParseLimits
) -> Prepared:
    """Raises `DocumentError` with the reason if the file cannot be read as a document."""
    file = task.file
    document = task.document or parse(file.path, source=file.source, limits=limits)
    return Prepared(
        file=file,
        file_hash=task.file_hash or hash_file(file.path),
        document=document,
        chunks=chunk(document, _tokenizer(tokenizer_file), chunking),
        text_hash=content_hash(document.text),
        signature=signature(document.text),
    )


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)
