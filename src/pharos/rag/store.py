"""Three LanceDB tables in a folder, and the manifest that makes their versions one snapshot.

Readers check out the versions that the manifest names: they never wait and never see half a
document. One writer at a time holds the lock. What it writes exists once it replaces the
manifest; if it is killed before, the next writer restores the tables to the manifest's versions.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import filelock
import lancedb
import pyarrow as pa
from lancedb.index import FTS, Bitmap, BTree
from lancedb.table import Table

from pharos.core import Document, IntegrityError, LibraryError, LockedError
from pharos.rag.manifest import Manifest
from pharos.rag.schema import (
    DOCUMENTS,
    PASSAGES,
    Batch,
    passage_rows,
    read_document,
    sql_list,
    window_rows,
    windows_schema,
)
from pharos.rag.vector_index import index_vectors

Result = TypeVar("Result")

TABLES = ("documents", "passages", "windows")
KEEP_VERSIONS = timedelta(hours=1)
NEVER = timedelta(days=365_000)

# Stemmed words without stop words; no positions, since phrases are not searched for.
BM25 = FTS(with_position=False, stem=True, remove_stop_words=True, ascii_folding=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of the whole library, valid as long as its versions are kept (`KEEP_VERSIONS`)."""

    manifest: Manifest
    documents: Table
    passages: Table
    windows: Table


class Store:
    """The folder of a library. Opening it reads nothing but the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._snapshot: Snapshot | None = None
        self._seen: tuple[int, int] | None = None

    def snapshot(self) -> Snapshot:
        """The newest committed state; `LibraryError` if there is none."""
        stamp = self._stamp()
        if self._snapshot is None or stamp != self._seen:
            self._snapshot = self._checkout()
            self._seen = stamp
        return self._snapshot

    def read(self, query: Callable[[Snapshot], Result]) -> Result:
        """What `query` makes of the newest snapshot; once more if a writer cleaned that up
        meanwhile. `IntegrityError` if the tables cannot be read."""
        snapshot = self.snapshot()
        try:
            return query(snapshot)
        except RuntimeError as error:
            if self._stamp() == self._seen:
                raise damaged(self.folder, error) from error
        try:
            return query(self.snapshot())
        except RuntimeError as error:
            raise damaged(self.folder, error) from error

    @contextmanager
    def writer(self, *, encoder: str, dim: int) -> Iterator["Writer"]:
        """The only writer; `LockedError` at once if another process is writing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        holder = self.folder / "writer.pid"
        lock = filelock.FileLock(self.folder / "writer.lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            who = holder.read_text().strip() if holder.exists() else "unknown"
            raise LockedError(
                f"{self.folder} is being written by process {who}; one writer at a time: wait "
                f"until it ends, or stop it (what it has committed stays). Searching goes on"
            ) from None
        try:
            holder.write_text(f"{os.getpid()}\n")
            yield Writer(self.folder, encoder=encoder, dim=dim)
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = (self.folder / "manifest.json").stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _checkout(self) -> Snapshot:
        manifest = Manifest.read(self.folder)
        if manifest is None:
            raise LibraryError(
                f"{self.folder} holds no library; "
                f"make one: pharos ingest PATH --library {self.folder}"
            )
        database = lancedb.connect(self.folder / "tables")
        tables = {}
        try:
            for name in TABLES:
                tables[name] = database.open_table(name)
                tables[name].checkout(manifest.versions[name])
        except (RuntimeError, ValueError) as error:
            raise damaged(self.folder, error) from error
        return Snapshot(manifest, **tables)


def damaged(folder: Path, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"the tables in {folder} cannot be read ({str(error).splitlines()[0][:200]}): restore the "
        f"folder from a backup, or remove it and ingest again"
    )


class Writer:
    """Changes a library by commits. Made by `Store.writer`, valid inside its `with` block."""

    def __init__(self, folder: Path, *, encoder: str, dim: int) -> None:
        self.folder = folder
        self._database = lancedb.connect(folder / "tables")
        self._has_removed = False
        manifest = Manifest.read(folder)
        if manifest is None:
            self._create(encoder, dim)
        else:
            manifest.require_encoder(encoder, dim)
            self.manifest = manifest
            self._restore()
        self._records: dict[str, dict[str, Any]] = {
            row["id"]: row
            for row in self.read(["id", "readers", "status", "num_passages"]).to_pylist()
        }

    def read(self, columns: list[str]) -> pa.Table:
        """Columns of every row of `documents`, sorted by source."""
        wanted = list(dict.fromkeys([*columns, "source"]))
        return self._table["documents"].search().select(wanted).to_arrow().sort_by("source")

    def commit(self, batch: Batch) -> None:
        """Make the batch part of the library: all of it or, if the process dies here, none."""
        documents, passages, windows = (self._table[name] for name in TABLES)
        known = batch.remove & self._records.keys()
        if known:
            documents.delete(f"id IN {sql_list(known)}")
            passages.delete(f"document_id IN {sql_list(known)}")
            windows.delete(f"document_id IN {sql_list(known)}")
        for readers in set(batch.readers.values()):
            ids = {id_ for id_, new in batch.readers.items() if new == readers}
            documents.update(where=f"id IN {sql_list(ids)}", values={"readers": readers})
            for table in (passages, windows):
                table.update(where=f"document_id IN {sql_list(ids)}", values={"readers": readers})
        pending = batch.pending & self._records.keys() - known
        if pending:
            documents.update(where=f"id IN {sql_list(pending)}", values={"status": "pending"})
        if batch.documents:
            documents.add(pa.Table.from_pylist(batch.documents, schema=DOCUMENTS))
        if batch.passages:
            passages.add(passage_rows(batch.passages))
            windows.add(window_rows(batch.passages, self.manifest.dim))
        self._has_removed = self._has_removed or bool(known)
        self._note(known, pending, batch)
        self._publish()

    def index(self) -> None:
        """Bring the indexes up to date and compact the tables; searches only get faster by it.

        Nothing is cleaned up before the manifest names the new versions: what it names must exist.
        """
        stale = [name for name in TABLES if self._is_stale(name)]
        if not stale:
            return
        for age in (NEVER, KEEP_VERSIONS):
            for name in stale:
                self._table[name].optimize(cleanup_older_than=age)
            trained_on = index_vectors(self._table["windows"], self.manifest.trained_on)
            self.manifest = replace(self.manifest, trained_on=trained_on)
            self._publish()

    def has(self, document_id: str) -> bool:
        return document_id in self._records

    def document(self, document_id: str) -> Document:
        """The stored document; it must be there."""
        rows = self._table["documents"].search().where(f"id IN {sql_list([document_id])}")
        return read_document(rows.to_list()[0])

    def _is_stale(self, name: str) -> bool:
        unindexed = (index.num_unindexed_rows for index in self._table[name].list_indices())
        return self._has_removed or any(unindexed)

    def _create(self, encoder: str, dim: int) -> None:
        for name in self._database.list_tables().tables:
            self._database.drop_table(name)
        schemas = {"documents": DOCUMENTS, "passages": PASSAGES, "windows": windows_schema(dim)}
        self._table = {
            name: self._database.create_table(name, schema=schemas[name]) for name in TABLES
        }
        self._table["documents"].create_index("id", config=BTree())
        for name, column in (
            ("passages", "id"),
            ("passages", "document_id"),
            ("windows", "document_id"),
        ):
            self._table[name].create_index(column, config=BTree())
        for name in ("passages", "windows"):
            self._table[name].create_index("readers", config=Bitmap())
        self._table["passages"].create_index("body", config=BM25)
        self.manifest = Manifest(encoder=encoder, dim=dim, versions={})
        self._records = {}
        self._publish()

    def _restore(self) -> None:
        """Undo what a killed writer left behind, and name the restored versions at once, so that
        no clean-up can ever meet a manifest that names an old version."""
        self._table = {name: self._database.open_table(name) for name in TABLES}
        stray = False
        for name, table in self._table.items():
            committed = self.manifest.versions[name]
            if table.version != committed:
                table.checkout(committed)
                table.restore()
                stray = True
        if stray:
            self._write(replace(self.manifest, versions=self._versions()))

    def _note(self, removed: set[str], pending: set[str], batch: Batch) -> None:
        for document_id in removed:
            del self._records[document_id]
        for document_id, readers in batch.readers.items():
            self._records[document_id]["readers"] = readers
        for document_id in pending:
            self._records[document_id]["status"] = "pending"
        for row in batch.documents:
            self._records[row["id"]] = {
                key: row[key] for key in ("id", "readers", "status", "num_passages")
            }

    def _publish(self) -> None:
        reader_sets: dict[str, int] = {}
        for row in self._records.values():
            if row["num_passages"]:
                count = reader_sets.get(row["readers"], 0)
                reader_sets[row["readers"]] = count + row["num_passages"]
        statuses = [row["status"] for row in self._records.values()]
        self._write(
            replace(
                self.manifest,
                versions=self._versions(),
                reader_sets=reader_sets,
                documents=statuses.count("indexed"),
                duplicates=len(statuses) - statuses.count("indexed"),
                passages=self._table["passages"].count_rows(),
                windows=self._table["windows"].count_rows(),
                generation=self.manifest.generation + 1,
            )
        )

    def _versions(self) -> Mapping[str, int]:
        return {name: table.version for name, table in self._table.items()}

    def _write(self, manifest: Manifest) -> None:
        manifest.write(self.folder)
        self.manifest = manifest
