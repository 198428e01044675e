"""Search latency, memory and disk of a library of so many passages.

    python -m benchmarks.search_scale [--data DIR] [--sizes 100000 1000000] [--json]

The passages are made up, the questions (SQuAD dev) and the encoder are real. A passage is 100 words
drawn with the frequencies they have in Wikipedia; its vector lies between those of two real
paragraphs, with noise. What is timed is `Library.search` as a whole, the question's vector
included, in a process that has done nothing else. Memory is what the peak of that process grows by,
from before it opens the library to the end of all searches. Disk includes the old versions that a
library keeps for an hour, for whoever still reads them.

The limit: comparing a question with every vector means reading them all, which takes at least their
size over the bandwidth of the memory (measured here). Exact search over bm25s and numpy, the usual
parts at this size, is the peer, for up to 200,000 passages.
"""

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from benchmarks.datasets import add_data_argument, squad
from benchmarks.hardware import describe, memory_bandwidth
from benchmarks.peers import load_peers, versions
from numpy.typing import NDArray

from pharos.core import Embedder, Passage
from pharos.rag import Library
from pharos.rag.access import PUBLIC, reader_set
from pharos.rag.defaults import default_embedder
from pharos.rag.schema import Batch, IndexedPassage
from pharos.rag.search import Mode
from pharos.rag.store import Store

REAL_PARAGRAPHS = 2000
WORDS = 100
PASSAGES_PER_DOCUMENT = 20
DOCUMENTS_PER_COMMIT = 1000
NOISE = 0.02
WARM_UP = 20
PEERS = ("bm25s", "PyStemmer")
LARGEST_FOR_PEERS = 200_000

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Of `n` searches, in milliseconds."""

    what: str
    p50: float
    p95: float
    p99: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    passages: int
    build_s: float
    disk_bytes_per_passage: float
    memory_bytes_per_passage: float
    scan_limit_ms: float
    latencies: list[Latency]


class Forge:
    """Makes up passages that are distributed like real ones; the same ones every time."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        counts = Counter(word for text in texts for word in re.findall(r"\w+", text))
        self._words = np.array(list(counts))
        self._shares = np.cumsum(list(counts.values())) / counts.total()
        self._vectors = vectors
        self._random = np.random.default_rng(0)

    def texts(self, size: int) -> list[str]:
        picks = np.searchsorted(self._shares, self._random.random((size, WORDS)))
        return [" ".join(self._words[row]) for row in picks]

    def vectors(self, size: int) -> Vectors:
        """`[size, dim]`: between two real ones, nearer to the first, with noise; unit length."""
        first, second = self._random.integers(0, len(self._vectors), (2, size))
        share = 0.5 * self._random.random((size, 1), dtype=np.float32)
        mixed = (1 - share) * self._vectors[first] + share * self._vectors[second]
        mixed += NOISE * self._random.standard_normal(mixed.shape, dtype=np.float32)
        unit: Vectors = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        return unit


def build(folder: Path, size: int, forge: Forge, embedder: Embedder) -> None:
    """A library of `size` made-up passages, written as an ingest writes."""
    with Store(folder).writer(encoder=embedder.name, dim=embedder.dim) as writer:
        for batch in batches(size, forge):
            writer.commit(batch)
        writer.index()


def batches(size: int, forge: Forge) -> Iterator[Batch]:
    num_documents = size // PASSAGES_PER_DOCUMENT
    for first in range(0, num_documents, DOCUMENTS_PER_COMMIT):
        batch = Batch()
        for number in range(first, min(first + DOCUMENTS_PER_COMMIT, num_documents)):
            add_document(batch, number, forge)
        yield batch


def add_document(batch: Batch, number: int, forge: Forge) -> None:
    readers = reader_set([PUBLIC])
    document_id = f"{number:016x}"
    texts = forge.texts(PASSAGES_PER_DOCUMENT)
    start = 0
    for ordinal, (text, vector) in enumerate(zip(texts, forge.vectors(len(texts)), strict=True)):
        passage = Passage(
            id=f"{document_id}-{ordinal:05d}",
            document_id=document_id,
            source=f"{number}.txt",
            title=f"Document {number}",
            headings=(),
            page=None,
            start=start,
            end=start + len(text),
            text=text,
        )
        indexed = IndexedPassage(passage=passage, prefix=passage.title, vectors=vector[np.newaxis])
        batch.passages.append((indexed, readers))
        start += len(text) + 1
    batch.documents.append(document_row(document_id, number, readers, "\n".join(texts)))


def document_row(document_id: str, number: int, readers: str, text: str) -> dict[str, Any]:
    return {
        "id": document_id,
        "source": f"{number}.txt",
        "title": f"Document {number}",
        "format": "text",
        "metadata": "{}",
        "readers": readers,
        "status": "indexed",
        "size": len(text),
        "num_passages": PASSAGES_PER_DOCUMENT,
        "text": text,
        "sections": "[]",
        "pages": "[]",
    }


def search_in_new_process(
    folder: Path, questions: Sequence[str]
) -> tuple[list[Latency], float, float]:
    """Latencies of every mode, and the process's growth and the library's size in bytes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(search_all, (folder, questions))


def search_all(folder: Path, questions: Sequence[str]) -> tuple[list[Latency], float, float]:
    embedder = default_embedder()
    vector = timed("question to vector", lambda q: embedder.embed([q]), questions)
    before = peak_memory()
    library = Library.open(folder, create=False)
    searches = [
        timed(mode, partial(library.search, mode=mode), questions) for mode in get_args(Mode)
    ]
    return [vector, *searches], peak_memory() - before, library.stats().bytes


def peak_memory() -> int:
    """In bytes. (Not `ru_maxrss`: that of a new process begins at its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def timed(what: str, search: Callable[[str], object], questions: Sequence[str]) -> Latency:
    for question in questions[:WARM_UP]:
        search(question)
    seconds = []
    for question in questions[WARM_UP:]:
        started = time.perf_counter()
        search(question)
        seconds.append(time.perf_counter() - started)
    p50, p95, p99 = (float(ms) for ms in np.percentile(np.array(seconds) * 1000, (50, 95, 99)))
    return Latency(what=what, p50=p50, p95=p95, p99=p99, n=len(seconds))


def peer_latencies(
    size: int,
    forge: Forge,
    questions: Sequence[str],
    embedder: Embedder,
    modules: Mapping[str, Any],
) -> list[Latency]:
    """The peers on as many passages of the same kind: bm25s, and every vector by numpy."""
    bm25s, stemmer = (modules[name] for name in PEERS)
    stem = stemmer.Stemmer("english")
    index = bm25s.BM25()
    index.index(bm25s.tokenize(forge.texts(size), stemmer=stem, show_progress=False), False)
    vectors = forge.vectors(size)

    def keywords(question: str) -> None:
        words = bm25s.tokenize(question, stemmer=stem, show_progress=False)
        index.retrieve(words, k=100, show_progress=False)

    def dense(question: str) -> None:
        scores = vectors @ embedder.embed([question])[0]
        np.argpartition(-scores, 100)

    def hybrid(question: str) -> None:
        keywords(question)
        dense(question)

    parts = {"bm25": keywords, "dense": dense, "hybrid": hybrid}
    return [timed(f"peers: {name}", part, questions) for name, part in parts.items()]


def measure(
    size: int, forge: Forge, questions: Sequence[str], modules: Mapping[str, Any] | None
) -> Scale:
    embedder = default_embedder()
    with tempfile.TemporaryDirectory(prefix="pharos-scale-") as folder:
        started = time.perf_counter()
        build(Path(folder), size, forge, embedder)
        build_s = time.perf_counter() - started
        latencies, memory, disk = search_in_new_process(Path(folder), questions)
    if modules is not None and size <= LARGEST_FOR_PEERS:
        latencies += peer_latencies(size, forge, questions, embedder, modules)
    return Scale(
        passages=size,
        build_s=build_s,
        disk_bytes_per_passage=disk / size,
        memory_bytes_per_passage=memory / size,
        scan_limit_ms=size * embedder.dim * 4 / memory_bandwidth() * 1000,
        latencies=latencies,
    )


def report(scale: Scale) -> str:
    lines = [
        f"{scale.passages:,} passages: written and indexed in {scale.build_s:.0f} s, "
        f"{scale.disk_bytes_per_passage:,.0f} bytes of disk and "
        f"{scale.memory_bytes_per_passage:,.0f} of memory a passage "
        f"({scale.memory_bytes_per_passage * scale.passages / 1e6:,.0f} MB); "
        f"reading every vector would take {scale.scan_limit_ms:.0f} ms",
        f"  {'ms':20} {'p50':>7} {'p95':>7} {'p99':>7} {'n':>6}",
    ]
    lines += [
        f"  {row.what:20} {row.p50:7.1f} {row.p95:7.1f} {row.p99:7.1f} {row.n:6,}"
        for row in scale.latencies
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Search latency, memory and disk by size.")
    add_data_argument(parser)
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    modules = load_peers(PEERS)
    real = [text.body for text in squad(arguments.data, "train").texts]
    sample = real[:: len(real) // REAL_PARAGRAPHS]
    print(f"embedding {len(sample):,} real paragraphs", file=sys.stderr, flush=True)
    forge = Forge(real, default_embedder().embed(sample))
    dev = squad(arguments.data).queries
    questions = dev[:: len(dev) // (arguments.questions + WARM_UP)][: arguments.questions + WARM_UP]
    used = {"hardware": describe(), "versions": versions(("lancedb", *PEERS))}
    scales = []
    for size in arguments.sizes:
        scales.append(measure(size, forge, questions, modules))
        print(report(scales[-1]), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps({**used, "scales": [asdict(scale) for scale in scales]}))
    else:
        print(*used.values(), sep="\n")


if __name__ == "__main__":
    main()
