"""What the three tables of a library hold, and the rows that go in and come out.

`documents` keeps the parsed text that every offset refers to, and what tells whether a file has
changed. `passages` is what BM25 searches: `body` is the heading prefix, a line break, and the
passage, so `body[prefix_len:]` is the passage itself. `windows` holds the vectors, one to several
a passage. The reader set stands in every row that is searched, so that it is filtered in the index.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pharos.core import Document, Page, Passage, Section

Status = Literal["indexed", "duplicate", "pending"]

DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("title", pa.string()),
        pa.field("format", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("readers", pa.string()),
        pa.field("status", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("similarity", pa.float32()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("file_hash", pa.string()),
        pa.field("text_hash", pa.string()),
        pa.field("signature", pa.binary()),
        pa.field("recipe", pa.string()),
        pa.field("num_passages", pa.int32()),
        pa.field("text", pa.large_string()),
        pa.field("sections", pa.large_string()),
        pa.field("pages", pa.large_string()),
    ]
)
PASSAGES = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("document_id", pa.string()),
        pa.field("readers", pa.string()),
        pa.field("source", pa.string()),
        pa.field("title", pa.string()),
        pa.field("headings", pa.list_(pa.string())),
        pa.field("page", pa.int32()),
        pa.field("start", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("body", pa.string()),
        pa.field("prefix_len", pa.int32()),
    ]
)


def windows_schema(dim: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("passage_id", pa.string()),
            pa.field("document_id", pa.string()),
            pa.field("readers", pa.string()),
            pa.field("title", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dim)),
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentRecord:
    """What the library knows of a document without its text."""

    id: str
    source: str
    title: str
    format: str
    metadata: dict[str, str]
    groups: tuple[str, ...]
    status: Status
    duplicate_of: str | None
    similarity: float | None
    size: int
    mtime_ns: int
    num_passages: int


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedPassage:
    """A passage ready to be stored: the row it becomes, and its vectors `[num_windows, dim]`."""

    passage: Passage
    prefix: str
    vectors: NDArray[np.float32]


@dataclass(kw_only=True, slots=True)
class Batch:
    """Everything one commit changes: rows of the documents in `remove` go, rows in the lists come;
    a document that is replaced is both removed and added. Those in `readers` may from now on be
    read by others, those in `pending` are to be looked at again by an ingest."""

    remove: set[str] = field(default_factory=set)
    readers: dict[str, str] = field(default_factory=dict)
    documents: list[dict[str, Any]] = field(default_factory=list)
    passages: list[tuple[IndexedPassage, str]] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)


def structure_columns(document: Document) -> dict[str, str]:
    """The columns that only `read_document` reads back."""
    return {
        "text": document.text,
        "sections": json.dumps([[s.start, s.end, *s.headings] for s in document.sections]),
        "pages": json.dumps([[p.start, p.end, p.number] for p in document.pages]),
    }


def read_document(row: dict[str, Any]) -> Document:
    return Document(
        source=row["source"],
        title=row["title"],
        text=row["text"],
        format=row["format"],
        sections=tuple(
            Section(start=start, end=end, headings=tuple(headings))
            for start, end, *headings in json.loads(row["sections"])
        ),
        pages=tuple(
            Page(start=start, end=end, number=number)
            for start, end, number in json.loads(row["pages"])
        ),
        metadata=json.loads(row["metadata"]),
    )


def read_passage(row: dict[str, Any]) -> Passage:
    return Passage(
        id=row["id"],
        document_id=row["document_id"],
        source=row["source"],
        title=row["title"],
        headings=tuple(row["headings"]),
        page=row["page"],
        start=row["start"],
        end=row["end"],
        text=row["body"][row["prefix_len"] :],
    )


def passage_rows(passages: Sequence[tuple[IndexedPassage, str]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": item.passage.id,
                "document_id": item.passage.document_id,
                "readers": readers,
                "source": item.passage.source,
                "title": item.passage.title,
                "headings": list(item.passage.headings),
                "page": item.passage.page,
                "start": item.passage.start,
                "end": item.passage.end,
                "body": f"{item.prefix}\n{item.passage.text}",
                "prefix_len": len(item.prefix) + 1,
            }
            for item, readers in passages
        ],
        schema=PASSAGES,
    )


def window_rows(passages: Sequence[tuple[IndexedPassage, str]], dim: int) -> pa.Table:
    vectors = np.concatenate([item.vectors for item, _ in passages]).astype(np.float32, copy=False)
    repeated = [(item.passage, readers) for item, readers in passages for _ in item.vectors]
    return pa.table(
        {
            "passage_id": [passage.id for passage, _ in repeated],
            "document_id": [passage.document_id for passage, _ in repeated],
            "readers": [readers for _, readers in repeated],
            "title": [passage.title for passage, _ in repeated],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim),
        },
        schema=windows_schema(dim),
    )


def sql_list(values: Iterable[str]) -> str:
    """`('a','b')` for a filter: quotes doubled, in a fixed order."""
    return "(" + ",".join("'" + value.replace("'", "''") + "'" for value in sorted(values)) + ")"
