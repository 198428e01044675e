"""The facade: a folder of documents that can be ingested, searched and asked."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pharos.core import (
    Answer,
    Document,
    Embedder,
    Hit,
    IntegrityError,
    LanguageModel,
    LibraryError,
)
from pharos.core.findings import Specialists, Team
from pharos.data.discover import SourceFile
from pharos.rag import search as retrieval
from pharos.rag.access import PUBLIC, groups_of
from pharos.rag.answer import CANDIDATES, PASSAGES_READ, answer_question
from pharos.rag.check import problems
from pharos.rag.defaults import default_embedder, default_specialists, default_tokenizer_file
from pharos.rag.ingest import Ingest, IngestConfig, OnProgress, document_id
from pharos.rag.plan import orphans
from pharos.rag.reader import ExtractiveReader
from pharos.rag.report import IngestReport
from pharos.rag.schema import (
    Batch,
    DocumentRecord,
    read_document,
    sql_list,
)
from pharos.rag.search import Mode
from pharos.rag.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryStats:
    """What a library holds; `bytes` is its size on disk."""

    documents: int
    duplicates: int
    passages: int
    windows: int
    groups: tuple[str, ...]
    encoder: str
    bytes: int


class Library:
    """Open one with `Library.open`. Any number of processes may search while one ingests."""

    def __init__(
        self,
        folder: Path,
        embedder: Embedder | None,
        tokenizer_file: Path | None,
        specialists: Team | None,
    ) -> None:
        self._store = Store(folder)
        self._given_embedder = embedder
        self._given_specialists = specialists
        self._given_tokenizer_file = tokenizer_file

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        embedder: Embedder | None = None,
        tokenizer_file: Path | None = None,
        specialists: Team | None = None,
        create: bool = True,
    ) -> "Library":
        """The library in the folder `path`; its first ingest makes it if it is absent.

        The default embedder is loaded when it is first needed. `tokenizer_file` measures passages
        (default: the default embedder's). `specialists` are asked on the way to an answer (default:
        with the default embedder those that ship, with another one none).
        Without `create`, an absent library is a `LibraryError`.
        """
        library = cls(Path(path), embedder, tokenizer_file, specialists)
        if not create:
            library._store.snapshot()
        return library

    @property
    def path(self) -> Path:
        return self._store.folder

    def ingest(
        self,
        paths: Iterable[str | Path],
        *,
        groups: Sequence[str] | None = None,
        prune: bool = False,
        config: IngestConfig | None = None,
        on_progress: OnProgress | None = None,
    ) -> IngestReport:
        """Files, folders and globs into the library. Unchanged files are skipped, changed ones
        replaced and, with `prune`, documents below `paths` whose file is gone removed.

        `groups` may read the files; without, known ones keep their readers and new ones are public.
        May be killed at any moment and run again. Raises
        `LockedError` if another process is writing; a file that cannot be read is a line in the
        report, not an error.
        """
        return self._job(groups, config, on_progress).run(list(paths), prune=prune)

    def ingest_bytes(
        self,
        data: bytes,
        *,
        name: str,
        groups: Sequence[str] | None = None,
        config: IngestConfig | None = None,
        on_progress: OnProgress | None = None,
    ) -> IngestReport:
        """One document that is not a file. `name` is its source; its suffix tells the format."""
        with TemporaryDirectory(prefix="pharos-") as folder:
            path = Path(folder) / f"document{Path(name).suffix}"
            path.write_bytes(data)
            file = SourceFile(
                path=path, source=name, size=len(data), mtime_ns=path.stat().st_mtime_ns
            )
            return self._job(groups, config, on_progress).run_files([file])

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        groups: Sequence[str] = (PUBLIC,),
        filters: Mapping[str, str] | None = None,
        mode: Mode = "hybrid",
    ) -> list[Hit]:
        """The `k` best passages that `groups` may read. `filters` compare document fields
        (`source`, `title`, `format`, and metadata), with `*` and `?` as in file names."""
        return self._store.read(
            lambda snapshot: retrieval.search(
                snapshot,
                self._compatible_embedder,
                query,
                k=k,
                groups=groups,
                filters=filters,
                mode=mode,
            )
        )

    def ask(
        self,
        question: str,
        *,
        k: int = PASSAGES_READ,
        groups: Sequence[str] = (PUBLIC,),
        filters: Mapping[str, str] | None = None,
        model: LanguageModel | None = None,
        on_text: Callable[[str], None] | None = None,
        threshold: float | None = None,
        keep_unsupported: bool = False,
        explain: bool = False,
    ) -> Answer:
        """An answer with verified citations, or an abstention that says what was read.

        Without a `model` the answer is quoted from the `k` best passages: the words that answer,
        where a trained reader finds them, and else sentences. With one, it is phrased
        by the model, streamed to `on_text` sentence by sentence as each is verified, and sentences
        that their sources do not bear out are dropped, or with `keep_unsupported` marked.
        `threshold` is the confidence from which on to answer (default: calibrated). With `explain`,
        `Answer.explanation` holds what each specialist said.
        """
        started = time.perf_counter()
        embedder, specialists = self._compatible_embedder(), self._specialists
        num_found = k if specialists.reranker is None else max(k, CANDIDATES)
        loaded = time.perf_counter()
        hits, documents = self._store.read(
            lambda snapshot: retrieval.search_with_structure(
                snapshot, lambda: embedder, question, k=num_found, groups=groups, filters=filters
            )
        )
        searched = time.perf_counter()
        answer = answer_question(
            question,
            hits,
            reader=ExtractiveReader(embedder),
            embedder=embedder,
            place_of=lambda id_, offset: documents[id_].place_at(offset),
            model=model,
            threshold=threshold,
            on_text=on_text,
            keep_unsupported=keep_unsupported,
            specialists=specialists,
            k=k,
            explain=explain,
        )
        timings = {
            "load": (loaded - started) * 1000,
            "search": (searched - loaded) * 1000,
            **answer.timings_ms,
            "total": (time.perf_counter() - started) * 1000,
        }
        return replace(answer, timings_ms=timings)

    def documents(self) -> list[DocumentRecord]:
        """Every document, duplicates included, sorted by source."""
        columns = [name for name in DocumentRecord.__slots__ if name != "groups"]
        rows = self._store.read(
            lambda snapshot: snapshot.documents.search().select([*columns, "readers"]).to_list()
        )
        return [_record(row) for row in sorted(rows, key=lambda row: row["source"])]

    def document(self, source: str) -> Document:
        """The parsed document that every offset refers to. `LibraryError` if it is not there."""
        rows = self._store.read(
            lambda snapshot: (
                snapshot.documents.search()
                .where(f"id IN {sql_list([document_id(source)])}")
                .to_list()
            )
        )
        if not rows:
            raise LibraryError(f"{source} is not in {self.path}; pharos library list shows what is")
        return read_document(rows[0])

    def remove(self, sources: Iterable[str]) -> int:
        """Take documents out, and say how many there were. Documents left out as duplicates of
        them come in with the next ingest."""
        ids = {document_id(source) for source in sources}
        manifest = self._store.snapshot().manifest
        with self._store.writer(encoder=manifest.encoder, dim=manifest.dim) as writer:
            rows = writer.read(["id", "duplicate_of"]).to_pylist()
            present = ids & {row["id"] for row in rows}
            if present:
                writer.commit(Batch(remove=present, pending=orphans(rows, present)))
                writer.index()
        return len(present)

    def check(self) -> list[str]:
        """One line for everything that does not add up; empty if the library is whole."""
        try:
            return self._store.read(lambda snapshot: list(problems(snapshot)))
        except IntegrityError as error:
            return [str(error)]

    def stats(self) -> LibraryStats:
        manifest = self._store.snapshot().manifest
        groups = {group for readers in manifest.reader_sets for group in groups_of(readers)}
        return LibraryStats(
            documents=manifest.documents,
            duplicates=manifest.duplicates,
            passages=manifest.passages,
            windows=manifest.windows,
            groups=tuple(sorted(groups)),
            encoder=manifest.encoder,
            bytes=_size_on_disk(self.path),
        )

    def _job(
        self,
        groups: Sequence[str] | None,
        config: IngestConfig | None,
        on_progress: OnProgress | None,
    ) -> Ingest:
        return Ingest(
            self._store,
            self._embedder,
            self._given_tokenizer_file or default_tokenizer_file(),
            groups=groups,
            config=config or IngestConfig(),
            on_progress=on_progress,
        )

    @property
    def _embedder(self) -> Embedder:
        return self._given_embedder or default_embedder()

    @property
    def _specialists(self) -> Team:
        if self._given_specialists is not None:
            return self._given_specialists
        return default_specialists() if self._given_embedder is None else Specialists()

    def _compatible_embedder(self) -> Embedder:
        embedder = self._embedder
        self._store.snapshot().manifest.require_encoder(embedder.name, embedder.dim)
        return embedder


def _size_on_disk(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a writer replaces files
            size += path.stat().st_size if path.is_file() else 0
    return size


def _record(row: dict[str, Any]) -> DocumentRecord:
    fields = {key: row[key] for key in DocumentRecord.__slots__ if key != "groups"}
    metadata = json.loads(fields.pop("metadata"))
    return DocumentRecord(**fields, metadata=metadata, groups=groups_of(row["readers"]))
