"""Retrieval quality of our library, beside bm25s and sentence-transformers.

    python -m benchmarks.retrieval [--data DIR] [--sets squad cranfield hotpotqa] [--json]

Each text becomes a file (Markdown with its title as heading, or plain text if it has none), each
set a library; what is searched is what a user would search. The peers get the same texts, the same
model, the usual settings, and reciprocal rank fusion of the first 100 of each list, k = 60.

Needs bm25s, PyStemmer and sentence-transformers in the interpreter for the peers' column.

Cranfield: nDCG@10, linear gains 4 to 1. SQuAD and HotpotQA: recall@k, the share of a question's
texts among the first k. Intervals are 95%, from 2,000 bootstrap samples of the questions; for the
difference of ours and the peers' hybrid, paired.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from benchmarks.datasets import RetrievalSet, Text, add_data_argument, cranfield, hotpotqa, squad
from benchmarks.hardware import describe
from benchmarks.peers import load_peers, sentence_transformer, versions
from numpy.typing import NDArray

from pharos import Library
from pharos.rag.search import Mode

SETS: Mapping[str, Callable[[Path], RetrievalSet]] = {
    "squad": squad,
    "cranfield": cranfield,
    "hotpotqa": hotpotqa,
}
PEERS = ("bm25s", "PyStemmer", "sentence-transformers")
FUSION_DEPTH = 100
FUSION_K = 60
SAMPLES = 2000

Scores = NDArray[np.float64]
Ranked = list[list[str]]
Metric = Callable[[Sequence[str], Mapping[str, float]], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure: the mean over `n` questions of what each retriever reached, and the interval."""

    set: str
    metric: str
    system: str
    retriever: str
    mean: float
    low: float
    high: float
    n: int


def recall_at(k: int) -> Metric:
    def recall(found: Sequence[str], relevant: Mapping[str, float]) -> float:
        return sum(text in found[:k] for text in relevant) / len(relevant)

    return recall


def ndcg_at(k: int) -> Metric:
    """Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002), with linear gains."""

    def dcg(gains: Sequence[float]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))

    def ndcg(found: Sequence[str], relevant: Mapping[str, float]) -> float:
        ideal = dcg(sorted(relevant.values(), reverse=True))
        return dcg([relevant.get(text, 0.0) for text in found]) / ideal

    return ndcg


METRICS: Mapping[str, Mapping[str, Metric]] = {
    "Cranfield": {"nDCG@10": ndcg_at(10)},
    "SQuAD": {"recall@1": recall_at(1), "recall@5": recall_at(5)},
    "HotpotQA": {"recall@5": recall_at(5)},
}


def ours(data: RetrievalSet, folder: Path) -> dict[str, Ranked]:
    """What `Library.search` finds in each mode, as ids of the set's texts, best first."""
    sources = write_files(data.texts, folder / "texts")
    library = Library.open(folder / "library")
    report = library.ingest([folder / "texts"])
    say(f"  ours: ingested in {report.seconds:.0f} s, {len(report.duplicates)} duplicates left out")
    for failure in report.failures:
        say(f"  ours: {failure.source}: {failure.reason}")
    ranked: dict[str, Ranked] = {}
    for mode in get_args(Mode):
        started = time.perf_counter()
        ranked[mode] = [
            unique(sources[hit.passage.source] for hit in library.search(query, k=20, mode=mode))
            for query in data.queries
        ]
        seconds = time.perf_counter() - started
        say(f"  ours: {mode}, {seconds * 1000 / len(data.queries):.1f} ms a query")
    return ranked


def write_files(texts: Sequence[Text], folder: Path) -> dict[str, str]:
    """One file a text; from the source that it will have in the library to the text's id."""
    folder.mkdir()
    sources = {}
    for number, text in enumerate(texts):
        path = folder / f"{number:05d}.{'md' if text.title else 'txt'}"
        path.write_text(f"# {text.title}\n\n{text.body}\n" if text.title else f"{text.body}\n")
        sources[str(path)] = text.id
    return sources


def theirs(data: RetrievalSet, modules: Mapping[str, Any]) -> dict[str, Ranked]:
    """The same with bm25s (stemmed, English stop words) and sentence-transformers, rank-fused."""
    bm25s, stemmer, sentence_transformers = (modules[name] for name in PEERS)
    texts = [f"{text.title}\n{text.body}" if text.title else text.body for text in data.texts]
    ids = np.array([text.id for text in data.texts])
    stem = stemmer.Stemmer("english")
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stemmer=stem, show_progress=False), show_progress=False)
    words = bm25s.tokenize(data.queries, stemmer=stem, show_progress=False)
    numbers, scores = index.retrieve(words, k=FUSION_DEPTH, show_progress=False)
    ranked = {
        "bm25": [list(ids[row[score > 0]]) for row, score in zip(numbers, scores, strict=True)]
    }
    model = sentence_transformer(sentence_transformers)
    vectors, queries = (
        model.encode(batch, normalize_embeddings=True, show_progress_bar=False)
        for batch in (texts, data.queries)
    )
    ranked["dense"] = [list(ids[row]) for row in nearest(queries, vectors)]
    ranked["hybrid"] = [fused(lists) for lists in zip(*ranked.values(), strict=True)]
    return ranked


def nearest(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    rows = [np.argsort(-(vectors @ query), kind="stable")[:FUSION_DEPTH] for query in queries]
    return np.array(rows, dtype=np.int64)


def fused(lists: Sequence[Sequence[str]]) -> list[str]:
    scores: dict[str, float] = {}
    for ranking in lists:
        for rank, text in enumerate(ranking, start=1):
            scores[text] = scores.get(text, 0.0) + 1 / (FUSION_K + rank)
    return sorted(scores, key=lambda text: -scores[text])


def measure(data: RetrievalSet, systems: Mapping[str, Mapping[str, Ranked]]) -> list[Row]:
    rows = []
    for name, metric in METRICS[data.name].items():
        scores = {
            (system, retriever): np.array(
                [metric(*pair) for pair in zip(ranked, data.relevant, strict=True)]
            )
            for system, retrievers in systems.items()
            for retriever, ranked in retrievers.items()
        }
        if ("peers", "hybrid") in scores:
            scores["difference", "hybrid"] = scores["ours", "hybrid"] - scores["peers", "hybrid"]
        rows += [
            summarised(data.name, name, system, retriever, values)
            for (system, retriever), values in scores.items()
        ]
    return rows


def summarised(set_: str, metric: str, system: str, retriever: str, values: Scores) -> Row:
    generator = np.random.default_rng(0)
    means = [generator.choice(values, len(values)).mean() for _ in range(SAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return Row(
        set=set_,
        metric=metric,
        system=system,
        retriever=retriever,
        mean=float(values.mean()),
        low=float(low),
        high=float(high),
        n=len(values),
    )


def unique(ids: Iterable[str]) -> list[str]:
    """A text that is several passages counts where its best one stands."""
    return list(dict.fromkeys(ids))


def sampled(data: RetrievalSet, size: int | None) -> RetrievalSet:
    """The set with at most `size` of its questions, always the same; only those that have texts."""
    kept = [number for number, relevant in enumerate(data.relevant) if relevant]
    if size is not None and size < len(kept):
        kept = sorted(random.Random(0).sample(kept, size))
    return RetrievalSet(
        data.name,
        data.texts,
        [data.queries[number] for number in kept],
        [data.relevant[number] for number in kept],
    )


def table(rows: Sequence[Row]) -> str:
    lines = [
        f"{'set':10} {'metric':9} {'system':11} {'retriever':9} {'mean':>7}  {'95%':17}      n"
    ]
    for row in rows:
        sign = "+" if row.system == "difference" else ""
        lines.append(
            f"{row.set:10} {row.metric:9} {row.system:11} {row.retriever:9} {row.mean:{sign}7.4f}  "
            f"{row.low:{sign}.4f} to {row.high:{sign}.4f} {row.n:8,}"
        )
    return "\n".join(lines)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Retrieval quality beside the usual parts.")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--questions", type=int, help="at most so many of each set [all]")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    modules = load_peers(PEERS)
    rows: list[Row] = []
    for name in arguments.sets:
        data = sampled(SETS[name](arguments.data), arguments.questions)
        say(f"{data.name}: {len(data.texts):,} texts, {len(data.queries):,} questions")
        with tempfile.TemporaryDirectory(prefix="pharos-retrieval-") as folder:
            systems = {"ours": ours(data, Path(folder))}
        if modules is not None:
            systems["peers"] = theirs(data, modules)
        rows += measure(data, systems)
    if arguments.json:
        settings = {"hardware": describe(), "versions": versions(("torch", "lancedb", *PEERS))}
        print(json.dumps({**settings, "rows": [asdict(row) for row in rows]}))
    else:
        print(describe(), versions(("torch", "lancedb", *PEERS)), table(rows), sep="\n")


if __name__ == "__main__":
    main()
