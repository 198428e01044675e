"""Ingest: files to a searchable library, as a staged job that may be killed at any moment.

    discover -> [workers: parse, clean, chunk, sign] -> deduplicate -> embed -> commit -> index

Files are taken in the order of their sources and committed in groups, each group in one atomic
step, so that what is committed is always a prefix of the work. Everything that a decision needs
(which files changed, which texts are known) is read from the library itself: a run that resumes
after a kill makes the decisions that the undisturbed run would have made, and ends with the same
library.

Duplicates are recognised only among documents with the same readers: dropping a text that one group
may read because another group has it would hide it, and merging the groups would disclose it.
When a document that others duplicate is changed or removed, the others are marked pending in the
same commit, and the next run reads them again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core import Embedder, Passage
from pharos.data.chunking import Chunk, ChunkConfig, heading_prefix
from pharos.data.deduplication import DEFAULT_THRESHOLD, NearDuplicates
from pharos.data.discover import SourceFile, discover
from pharos.data.parsing import ParseLimits
from pharos.data.prepare import Prepared, Task, prepare
from pharos.data.workers import WorkerLimits, run_isolated
from pharos.rag.access import reader_set
from pharos.rag.plan import RECORD_COLUMNS, Plan, Row, WorkItem, make_plan, orphans, prunable_roots
from pharos.rag.report import Duplicate, Failure, IngestProgress, IngestReport
from pharos.rag.schema import Batch, IndexedPassage, structure_columns
from pharos.rag.store import Store, Writer

# Raised whenever parsing or cleaning changes what it makes of the same bytes.
PARSER_VERSION = 1
GROUP_WINDOWS = 512
GROUP_CHARACTERS = 16_000_000
GROUP_DOCUMENTS = 256
EMBED_WINDOWS = 128
# Searches slow down with every commit that is not yet compacted and indexed: by 40, noticeably.
INDEX_EVERY_COMMITS = 40

OnProgress = Callable[[IngestProgress], None]
# A prepared file, its readers, and the document it duplicates with the similarity.
Judged = tuple[Prepared, str, tuple[str, float] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """`workers` is the number of parsing processes; 0 takes one per CPU core, at most 8."""

    chunking: ChunkConfig = field(default_factory=ChunkConfig)
    parse_limits: ParseLimits = field(default_factory=ParseLimits)
    worker_limits: WorkerLimits = field(default_factory=WorkerLimits)
    near_duplicate_threshold: float = DEFAULT_THRESHOLD
    workers: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; give at least 1, or 0 for one per core")
        if not 0.5 <= self.near_duplicate_threshold <= 1.0:
            raise ValueError(
                f"near_duplicate_threshold is {self.near_duplicate_threshold}; it is a similarity "
                f"from 0.5 to 1 (1 drops only texts with the same words in the same order)"
            )

    @property
    def num_workers(self) -> int:
        return self.workers or min(len(os.sched_getaffinity(0)), 8)

    def recipe(self) -> str:
        """Names all that decides which passages a file becomes; with another, it is read again."""
        parts = [PARSER_VERSION, asdict(self.chunking), self.near_duplicate_threshold]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def document_id(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Known:
    """The documents of the library as duplicates are looked for among them."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._exact: dict[tuple[str, str], str] = {}
        self._near: dict[str, NearDuplicates] = {}

    def add(self, document_id: str, readers: str, text_hash: str, signature: bytes) -> None:
        self._exact.setdefault((readers, text_hash), document_id)
        if readers not in self._near:
            self._near[readers] = NearDuplicates(self._threshold)
        self._near[readers].add(document_id, signature)

    def find(self, readers: str, text_hash: str, signature: bytes) -> tuple[str, float] | None:
        """The id of a document with this text and these readers, and the similarity."""
        if exact := self._exact.get((readers, text_hash)):
            return exact, 1.0
        near = self._near.get(readers)
        # A near-duplicate is never called exact, whatever its signature says.
        found = near.find(signature) if near else None
        return (found[0], min(found[1], 0.999)) if found else None


class Ingest:
    """One run. `run` may be called once."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        tokenizer_file: Path,
        *,
        groups: Iterable[str] | None,
        config: IngestConfig,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._tokenizer_file = tokenizer_file
        self._readers = None if groups is None else reader_set(groups)
        self._config = config
        self._recipe = config.recipe()
        self._on_progress = on_progress or (lambda progress: None)
        self._progress = IngestProgress(stage="discover")
        self._report = IngestReport()

    def run(self, paths: Sequence[str | Path], *, prune: bool = False) -> IngestReport:
        self._tell(stage="discover")
        found = discover(paths)
        roots = prunable_roots(paths) if prune else []
        failures = [Failure(source=source, reason=reason) for source, reason in found.failures]
        return self.run_files(found.files, roots=roots, failures=failures)

    def run_files(
        self,
        files: Sequence[SourceFile],
        *,
        roots: Sequence[str] = (),
        failures: Sequence[Failure] = (),
    ) -> IngestReport:
        """Ingest exactly `files`; documents below `roots` whose file is gone are removed."""
        started = time.monotonic()
        self._report.failures.extend(failures)
        with self._store.writer(encoder=self._embedder.name, dim=self._embedder.dim) as writer:
            self._change_readers(writer, files)
            records = writer.read(RECORD_COLUMNS).to_pylist()
            plan = make_plan(
                files, records, roots=roots, recipe=self._recipe, readers=self._readers
            )
            self._report.failures.extend(plan.failures)
            self._report.unchanged = plan.unchanged
            self._remove(writer, plan, records)
            self._ingest(writer, plan, records)
            self._tell(stage="index")
            writer.index()
            self._report.documents = writer.manifest.documents
            self._report.passages = writer.manifest.passages
        self._report.seconds = time.monotonic() - started
        return self._report

    def _change_readers(self, writer: Writer, files: Sequence[SourceFile]) -> None:
        """Before anything is parsed, and whether or not it can be: who may no longer read a text
        must not depend on the text. Nor may a duplicate be hidden by an original of others."""
        if self._readers is None:
            return
        sources = {file.source for file in files}
        records = writer.read(RECORD_COLUMNS).to_pylist()
        changing = [r for r in records if r["source"] in sources and r["readers"] != self._readers]
        if changing:
            ids = {record["id"] for record in changing}
            adrift = {record["id"] for record in changing if record["status"] == "duplicate"}
            pending = orphans(records, ids) | adrift
            writer.commit(Batch(readers=dict.fromkeys(ids, self._readers), pending=pending))
            self._report.readers_changed = len(ids)

    def _remove(self, writer: Writer, plan: Plan, records: list[Row]) -> None:
        if plan.removed:
            writer.commit(Batch(remove=plan.removed, pending=orphans(records, plan.removed)))
            self._report.removed = len(plan.removed)

    # Do: parse in workers, embed and commit here.

    def _ingest(self, writer: Writer, plan: Plan, records: list[Row]) -> None:
        known = Known(self._config.near_duplicate_threshold)
        for record in records:
            if record["status"] == "indexed" and record["id"] not in plan.leaving:
                known.add(*(record[key] for key in ("id", "readers", "text_hash", "signature")))
        sources = {record["id"]: record["source"] for record in records}
        self._tell(
            stage="ingest",
            files_total=len(plan.work),
            bytes_total=sum(item.file.size for item in plan.work),
        )
        before = set(sources)
        done: set[str] = set()
        groups = self._groups(self._prepare(plan.work, writer), known, sources)
        for number, group in enumerate(groups, start=1):
            ids = {document_id(prepared.file.source) for prepared, _, _ in group}
            done |= ids
            # An orphan is read again later in this run; pending, it is so even if this run dies.
            batch = Batch(remove=ids, pending=orphans(records, ids) - done)
            self._fill(batch, group)
            writer.commit(batch)
            self._count(group, num_changed=len(ids & before))
            if number % INDEX_EVERY_COMMITS == 0:
                self._tell(stage="index")
                writer.index()
                self._tell(stage="ingest")

    def _groups(
        self, work: Iterator[tuple[Prepared, str]], known: Known, sources: dict[str, str]
    ) -> Iterator[list[Judged]]:
        """Prepared documents with the one that they duplicate, if any, in runs that are worth a
        commit and fit into memory."""
        group: list[Judged] = []
        num_windows = num_characters = 0
        for prepared, readers in work:
            new_id = document_id(prepared.file.source)
            sources[new_id] = prepared.file.source
            found = known.find(readers, prepared.text_hash, prepared.signature)
            if found is None:
                known.add(new_id, readers, prepared.text_hash, prepared.signature)
                num_windows += sum(len(chunk.windows) for chunk in prepared.chunks)
            else:
                self._report.duplicates.append(_duplicate(prepared, sources[found[0]], found[1]))
            num_characters += len(prepared.document.text)
            group.append((prepared, readers, found))
            if (
                num_windows >= GROUP_WINDOWS
                or num_characters >= GROUP_CHARACTERS
                or len(group) >= GROUP_DOCUMENTS
            ):
                yield group
                group, num_windows, num_characters = [], 0, 0
        if group:
            yield group

    def _prepare(self, work: Sequence[WorkItem], writer: Writer) -> Iterator[tuple[Prepared, str]]:
        """The documents of `work` with who may read them, prepared in workers, in order."""
        function = partial(
            prepare,
            tokenizer_file=self._tokenizer_file,
            chunking=self._config.chunking,
            limits=self._config.parse_limits,
        )
        outcomes = run_isolated(
            function,
            (_task(item, writer) for item in work),
            workers=self._config.num_workers,
            limits=self._config.worker_limits,
        )
        for item, outcome in zip(work, outcomes, strict=True):
            self._tell(
                files_done=self._progress.files_done + 1,
                bytes_done=self._progress.bytes_done + item.file.size,
                current=item.file.source,
            )
            if outcome.value is None:
                reason = outcome.error or "no reason given"
                if writer.has(document_id(item.file.source)):
                    reason += "; the library keeps the text that it had"
                self._report.failures.append(Failure(source=item.file.source, reason=reason))
            else:
                yield outcome.value, item.readers

    def _fill(self, batch: Batch, group: list[Judged]) -> None:
        """Add the rows of the group to the batch; this is where the passages are embedded."""
        passages: list[tuple[Passage, str, Chunk, str]] = []
        for prepared, readers, found in group:
            batch.documents.append(self._document_row(prepared, readers, found))
            if found is None:
                passages.extend((*passage, readers) for passage in _passages(prepared))
        texts = [
            f"{prefix}\n{passage.text[window.start - passage.start : window.end - passage.start]}"
            for passage, prefix, chunk, _ in passages
            for window in chunk.windows
        ]
        vectors = self._embed(texts)
        first = 0
        for passage, prefix, chunk, readers in passages:
            last = first + len(chunk.windows)
            indexed = IndexedPassage(passage=passage, prefix=prefix, vectors=vectors[first:last])
            batch.passages.append((indexed, readers))
            first = last
        self._tell(passages=self._progress.passages + len(passages))

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`[len(texts), dim]`, in slices of similar length; between them progress shows."""
        vectors = np.empty((len(texts), self._embedder.dim), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for first in range(0, len(order), EMBED_WINDOWS):
            rows = order[first : first + EMBED_WINDOWS]
            vectors[rows] = self._embedder.embed([texts[row] for row in rows])
            self._tell()
        return vectors

    def _document_row(
        self, prepared: Prepared, readers: str, found: tuple[str, float] | None
    ) -> Row:
        document, file = prepared.document, prepared.file
        return {
            "id": document_id(file.source),
            "source": file.source,
            "title": document.title,
            "format": document.format,
            "metadata": json.dumps(dict(document.metadata), sort_keys=True),
            "readers": readers,
            "status": "indexed" if found is None else "duplicate",
            "duplicate_of": found[0] if found else None,
            "similarity": found[1] if found else None,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "file_hash": prepared.file_hash,
            "text_hash": prepared.text_hash,
            "signature": prepared.signature,
            "recipe": self._recipe,
            "num_passages": len(prepared.chunks) if found is None else 0,
            **structure_columns(document),
        }

    def _count(self, group: list[Judged], *, num_changed: int) -> None:
        self._report.changed += num_changed
        self._report.added += len(group) - num_changed
        self._report.bytes += sum(prepared.file.size for prepared, _, _ in group)

    def _tell(self, **changes: Any) -> None:
        self._progress = replace(self._progress, **changes)
        self._on_progress(self._progress)


def _task(item: WorkItem, writer: Writer) -> Task:
    if item.stored is None:
        return Task(file=item.file)
    document = writer.document(item.stored["id"])
    return Task(file=item.file, document=document, file_hash=item.stored["file_hash"])


def _passages(prepared: Prepared) -> Iterator[tuple[Passage, str, Chunk]]:
    document = prepared.document
    owner = document_id(document.source)
    for ordinal, chunk in enumerate(prepared.chunks):
        passage = Passage(
            id=f"{owner}-{ordinal:05d}",
            document_id=owner,
            source=document.source,
            title=document.title,
            headings=chunk.headings,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            text=document.text[chunk.start : chunk.end],
        )
        yield passage, heading_prefix(document.title, chunk.headings), chunk


def _duplicate(prepared: Prepared, original: str, similarity: float) -> Duplicate:
    return Duplicate(
        source=prepared.file.source,
        duplicate_of=original,
        kind="exact" if similarity == 1.0 else "near",
        similarity=similarity,
    )
