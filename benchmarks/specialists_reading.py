"""Reader and re-ranker on SQuAD's dev set, and the re-ranker on sets that are nothing like it."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.answer_quality import Remembering, auroc, calibration_error, library_of
from benchmarks.answer_quality import risk_coverage as risks_by_coverage
from benchmarks.datasets import RetrievalSet, cranfield, hotpotqa, squad_articles
from benchmarks.intervals import Figure, mean, measured, percentile_95
from benchmarks.retrieval import METRICS, recall_at, sampled, say, unique, write_files
from benchmarks.squad_scores import best, exact_match, f1, predictions

from pharos import Library
from pharos.core import Hit, Passage
from pharos.core.findings import Specialists
from pharos.rag.consult import reranked
from pharos.rag.search import Mode
from pharos.specialists import load_encoder

CANDIDATES = 30
PUBLISHED = ("logistic-regression", "bert-ensemble")
GOOD = 0.5
"""The F1 from which on an answer counts as right, where it is right or wrong."""
BASELINES: tuple[Mode, ...] = ("bm25", "dense", "hybrid")
COVERAGES = (0.25, 0.5, 0.75, 1.0)
Other = Callable[[Path], RetrievalSet]
OTHERS: Mapping[str, Other] = {"hotpotqa": hotpotqa, "cranfield": cranfield}


@dataclass(frozen=True, slots=True)
class Asked:
    id: str
    question: str
    answers: tuple[str, ...]
    context: str
    source: str


@dataclass(frozen=True, slots=True)
class Said:
    """The best answer's scores, and what the reader believes of it."""

    exact: float
    f1: float
    right: float
    answerable: float


def drawn(paragraphs: Sequence[dict[str, Any]], count: int, seed: int = 0) -> list[Asked]:
    every = [
        Asked(
            qa["id"],
            qa["question"].strip(),
            tuple(answer["text"] for answer in qa["answers"]),
            paragraph["context"],
            paragraph["source"],
        )
        for paragraph in paragraphs
        for qa in paragraph["qas"]
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def read(team: Specialists, question: str, hits: Sequence[Hit], answers: Sequence[str]) -> Said:
    assert team.reader is not None
    reading = team.reader.find(question, hits)
    if not reading.spans:
        return Said(0.0, 0.0, 0.0, 0.0)
    text = reading.spans[0].text
    return Said(
        best(exact_match, text, answers),
        best(f1, text, answers),
        reading.spans[0].score,
        reading.answerable,
    )


def gold_paragraphs(team: Specialists, asked: Sequence[Asked], data: Path) -> Iterator[Figure]:
    """The paragraph that was asked about is given."""
    found = [read(team, a.question, [alone(a.context)], a.answers) for a in asked]
    scored = {"ours": [(said.exact, said.f1) for said in found]}
    for system in PUBLISHED:
        theirs = predictions(data, system)
        texts = [theirs.get(a.id, "") for a in asked]
        scored[system] = [
            (best(exact_match, text, a.answers), best(f1, text, a.answers))
            for text, a in zip(texts, asked, strict=True)
        ]
    for place, figure in enumerate(("exact match", "F1")):
        for system, pairs in scored.items():
            values = np.array([pair[place] for pair in pairs])
            yield measured("reader", "SQuAD dev, gold", figure, system, mean, values)


def alone(context: str) -> Hit:
    passage = Passage(
        id="gold",
        document_id="gold",
        source="gold",
        title="",
        headings=(),
        page=None,
        start=0,
        end=len(context),
        text=context,
    )
    return Hit(passage=passage, score=1.0)


def whole_library(team: Specialists, library: Library, asked: Sequence[Asked]) -> Iterator[Figure]:
    """All paragraphs may hold the answer; for every second question also without its own."""
    present, absent = [], []
    milliseconds = []
    for number, each in enumerate(asked):
        started = time.perf_counter()
        found = library.search(each.question, k=CANDIDATES)
        said = read(team, each.question, ordered(team, each.question, found), each.answers)
        milliseconds.append((time.perf_counter() - started) * 1000)
        present.append(said)
        if number % 2:
            others = [hit for hit in found if hit.passage.source != each.source]
            hits = ordered(team, each.question, others)
            absent.append(read(team, each.question, hits, ["\0"]))
    set_ = "SQuAD dev, library"
    for figure in ("exact", "f1"):
        values = np.array([getattr(said, figure) for said in present])
        name = {"exact": "exact match", "f1": "F1"}[figure]
        yield measured("reader", set_, name, "ours", mean, values)
    asked_once = [*present[::2], *absent]
    is_there = np.array([number < len(present[::2]) for number in range(len(asked_once))])
    believed = np.array([said.answerable for said in asked_once])
    right = np.array([said.f1 >= GOOD for said in asked_once])
    sure = np.array([said.right for said in asked_once])
    yield measured("reader", set_, "AUROC of abstention", "ours", auroc, believed, is_there)
    yield measured(
        "reader", set_, "ECE, answer is there", "ours", calibration_error, believed, is_there
    )
    yield measured("reader", set_, "ECE, answer is right", "ours", calibration_error, sure, right)
    for coverage in COVERAGES:
        name = f"risk at coverage {coverage:.2f}"
        yield measured("reader", set_, name, "ours", risk_at(coverage), sure, right)
    taken = np.array(milliseconds)
    yield measured("reader", set_, "search to answer, P95, ms", "ours", percentile_95, taken)


def risk_at(coverage: float) -> Callable[..., float]:
    """Of the surest so many answers (half have none), the share that is wrong."""

    def risk(sure: Any, right: Any) -> float:
        answered = max(1, round(coverage * len(sure)))
        return list(risks_by_coverage(sure, right))[answered - 1][1]

    return risk


def ordered(team: Specialists, question: str, hits: Sequence[Hit]) -> list[Hit]:
    return reranked(question, hits, team.reranker) if team.reranker else list(hits)


def rankers(
    team: Specialists,
    library: Library,
    name: str,
    queries: Sequence[str],
    relevant: Sequence[Mapping[str, float]],
    id_of: Callable[[Hit], str],
) -> Iterator[Figure]:
    """BM25, cosine and both beside the re-ranker over the 30 that both find."""
    assert team.reranker is not None
    ranked: dict[str, list[list[str]]] = {}
    for mode in BASELINES:
        found = [library.search(query, k=CANDIDATES, mode=mode) for query in queries]
        ranked[{"dense": "cosine"}.get(mode, mode)] = [unique(map(id_of, hits)) for hits in found]
    again = [ordered(team, query, hits) for query, hits in zip(queries, found, strict=True)]
    ranked["ours"] = [unique(map(id_of, hits)) for hits in again]
    metrics = METRICS.get(name, {"recall@1": recall_at(1), "recall@5": recall_at(5)})
    for figure, metric in metrics.items():
        for system, lists in ranked.items():
            values = np.array([metric(*pair) for pair in zip(lists, relevant, strict=True)])
            yield measured("reranker", name, figure, system, mean, values)


def squad_figures(team: Specialists, data: Path, questions: int) -> Iterator[Figure]:
    with library_of(squad_articles(data), Remembering(load_encoder())) as (library, paragraphs):
        asked = drawn(paragraphs, questions)
        if team.reader:
            yield from gold_paragraphs(team, asked, data)
            yield from whole_library(team, library, asked)
        if team.reranker:
            queries = [each.question for each in asked]
            relevant = [{each.source: 1.0} for each in asked]
            yield from rankers(
                team, library, "SQuAD", queries, relevant, lambda hit: hit.passage.source
            )


def other_figures(team: Specialists, data: Path, questions: int) -> Iterator[Figure]:
    """Sets that no specialist has learned anything from."""
    for load in OTHERS.values():
        chosen = sampled(load(data), questions)
        say(f"{chosen.name}: {len(chosen.texts):,} texts, {len(chosen.queries):,} questions")
        with tempfile.TemporaryDirectory(prefix="pharos-specialists-") as folder:
            sources = write_files(chosen.texts, Path(folder) / "texts")
            library = Library.open(Path(folder) / "library", embedder=load_encoder())
            library.ingest([Path(folder) / "texts"])
            id_of = partial(id_from, sources)
            yield from rankers(team, library, chosen.name, chosen.queries, chosen.relevant, id_of)


def id_from(sources: Mapping[str, str], hit: Hit) -> str:
    return sources[hit.passage.source]
