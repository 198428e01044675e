"""What an ingest will do, decided from what the library knows before any file is parsed."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pharos.data.discover import SourceFile, path_of, source_of
from pharos.data.prepare import hash_file
from pharos.rag.access import PUBLIC, reader_set
from pharos.rag.report import Failure

Row = dict[str, Any]

RECORD_COLUMNS = ["id", "source", "readers", "status", "duplicate_of", "size", "mtime_ns"]
RECORD_COLUMNS += ["file_hash", "text_hash", "signature", "recipe"]


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A document to prepare, and who may read it. One that is `stored` is prepared anew from the
    text that the library holds: it was left out as a duplicate of one that is now leaving."""

    file: SourceFile
    readers: str
    stored: Row | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Remove the documents `removed`, then prepare `work` in order. `leaving` are the ids of all
    documents that are removed or replaced."""

    work: list[WorkItem]
    removed: set[str]
    leaving: set[str]
    unchanged: int
    failures: list[Failure]


def make_plan(
    files: Sequence[SourceFile],
    records: Sequence[Row],
    *,
    roots: Sequence[str],
    recipe: str,
    readers: str | None,
) -> Plan:
    """`records` are rows of `RECORD_COLUMNS`. Documents below `roots` whose file is gone are
    removed. `readers` may read the files; None leaves it to their records, and new ones to all."""
    by_source = {record["source"]: record for record in records}
    work: dict[str, WorkItem] = {}
    failures = []
    for file in files:
        record = by_source.get(file.source)
        try:
            if record is None or not _is_unchanged(file, record, recipe):
                known = record["readers"] if record else reader_set([PUBLIC])
                work[file.source] = WorkItem(file, readers or known)
        except OSError as error:
            failures.append(Failure(source=file.source, reason=f"cannot be read: {error.strerror}"))
    unchanged = len(files) - len(work) - len(failures)
    removed = {record["id"] for record in records if _is_gone(record["source"], roots)}
    leaving = removed | {by_source[source]["id"] for source in work if source in by_source}
    for record in _adrift(records, leaving):
        work[record["source"]] = WorkItem(_file_of(record), record["readers"], stored=record)
        leaving.add(record["id"])
    ordered = [work[source] for source in sorted(work)]
    return Plan(ordered, removed, leaving, unchanged, failures)


def orphans(records: Iterable[Row], leaving: set[str]) -> set[str]:
    """Documents that were left out because of one that is now leaving."""
    return {record["id"] for record in records if record["duplicate_of"] in leaving}


def prunable_roots(paths: Sequence[str | Path]) -> list[str]:
    """Below which sources files may be found missing: the folders and files among `paths` that are
    there, and the fixed beginnings of patterns. A folder that is not there at all may be a disk
    that is not mounted, and proves nothing."""
    roots = []
    for path in paths:
        # Not resolve(): sources keep the symbolic links of the path they were found by.
        root = Path(os.path.normpath(Path.cwd() / path))
        while _has_magic(root) and not root.exists():
            root = root.parent
        if os.path.lexists(root):
            roots.append(source_of(root))
    return roots


def _has_magic(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[")


def _is_unchanged(file: SourceFile, record: Row, recipe: str) -> bool:
    if record["recipe"] != recipe or record["status"] == "pending" or record["size"] != file.size:
        return False
    return bool(record["mtime_ns"] == file.mtime_ns or record["file_hash"] == hash_file(file.path))


def _adrift(records: Iterable[Row], leaving: set[str]) -> list[Row]:
    """The records of duplicates that have lost their original, and are not replaced anyway."""
    return [
        record
        for record in records
        if record["id"] not in leaving
        and (record["status"] == "pending" or record["duplicate_of"] in leaving)
    ]


def _file_of(record: Row) -> SourceFile:
    return SourceFile(
        path=path_of(record["source"]),
        source=record["source"],
        size=record["size"],
        mtime_ns=record["mtime_ns"],
    )


def _is_gone(source: str, roots: Sequence[str]) -> bool:
    """Whether the file of a document below one of `roots` no longer exists. A folder that cannot
    be looked into is no proof."""
    if not any(Path(source).is_relative_to(root) for root in roots):
        return False
    try:
        path_of(source).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
