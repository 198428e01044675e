"""Does everything in a library add up? Every passage its document, every offset its text."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pharos.rag.schema import read_document, read_passage
from pharos.rag.store import Snapshot

TOLERANCE = 1e-3
Rows = list[dict[str, Any]]


def problems(snapshot: Snapshot) -> Iterator[str]:
    """One line for everything that is wrong with a snapshot; nothing if it is whole."""
    documents = {row["id"]: row for row in _rows(snapshot.documents)}
    passages: dict[str, Rows] = defaultdict(list)
    for row in _rows(snapshot.passages):
        passages[row["document_id"]].append(row)
    windows = snapshot.windows.to_arrow()
    yield from _counts(snapshot, documents, passages, windows)
    yield from _documents(documents, passages)
    for document_id, rows in passages.items():
        if document_id not in documents:
            yield f"{len(rows)} passages belong to the document {document_id}, which is not there"
            continue
        yield from _passages(documents[document_id], rows)
    yield from _windows(passages, windows)


def _rows(table: Any) -> Rows:
    rows: Rows = table.to_arrow().to_pylist()
    return rows


def _counts(
    snapshot: Snapshot, documents: dict[str, Any], passages: dict[str, Rows], windows: pa.Table
) -> Iterator[str]:
    manifest = snapshot.manifest
    indexed = sum(row["status"] == "indexed" for row in documents.values())
    num_passages = sum(map(len, passages.values()))
    sets = Counter(row["readers"] for rows in passages.values() for row in rows)
    for what, counted, stated in (
        ("documents", indexed, manifest.documents),
        ("duplicates", len(documents) - indexed, manifest.duplicates),
        ("passages", num_passages, manifest.passages),
        ("windows", windows.num_rows, manifest.windows),
        ("passages by readers", dict(sets), dict(manifest.reader_sets)),
    ):
        if counted != stated:
            yield f"the manifest counts {stated} {what}, the tables hold {counted}"


def _documents(documents: dict[str, Any], passages: dict[str, Rows]) -> Iterator[str]:
    sources = Counter(row["source"] for row in documents.values())
    yield from (f"{source} is there {n} times" for source, n in sources.items() if n > 1)
    for row in documents.values():
        held = len(passages.get(row["id"], ()))
        if held != row["num_passages"]:
            yield f"{row['source']} should have {row['num_passages']} passages and has {held}"
        if row["status"] == "duplicate":
            original = documents.get(row["duplicate_of"])
            if original is None or original["status"] != "indexed":
                yield f"{row['source']} duplicates {row['duplicate_of']}, which is not indexed"


def _passages(record: dict[str, Any], rows: Rows) -> Iterator[str]:
    document = read_document(record)
    for row in rows:
        passage = read_passage(row)
        where = f"passage {passage.id} of {document.source}"
        if document.text[passage.start : passage.end] != passage.text or not passage.text:
            yield f"{where}: its text is not the document's from {passage.start} to {passage.end}"
        if row["readers"] != record["readers"]:
            yield f"{where}: may be read by {row['readers']}, its document by {record['readers']}"
        if (passage.source, passage.title) != (document.source, document.title):
            yield f"{where}: names another source or title than its document"


def _windows(passages: dict[str, Rows], windows: pa.Table) -> Iterator[str]:
    readers = {row["id"]: row["readers"] for rows in passages.values() for row in rows}
    held = dict(zip(windows["passage_id"].to_pylist(), windows["readers"].to_pylist(), strict=True))
    for passage_id, allowed in readers.items():
        if passage_id not in held:
            yield f"passage {passage_id} has no vector"
        elif held[passage_id] != allowed:
            yield f"the vectors of passage {passage_id} may be read by {held[passage_id]}"
    yield from (
        f"a vector belongs to the passage {id_}, which is not there"
        for id_ in held.keys() - readers
    )
    if windows.num_rows:
        flat = windows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        lengths = np.linalg.norm(flat.reshape(windows.num_rows, -1), axis=1)
        wrong = int(np.count_nonzero(~(np.abs(lengths - 1.0) <= TOLERANCE)))
        if wrong:
            yield f"{wrong} vectors are not of length 1"
