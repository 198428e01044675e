"""Hybrid search: dense vectors and BM25, fused by weighted reciprocal rank.

Each retriever ranks the passages that the asker may read. In reciprocal rank fusion (Cormack,
Clarke & Buettcher 2009) a passage's score is the sum over the retrievers of 1 / (k + rank). Ranks
alone forget how clear a winner is: on questions whose words are in the text, that puts the fusion
below BM25. So each vote is weighted by the share that the passage's own score has of the best:

    score(p) = sum over retrievers of (s(p) / s(best)) / (k + rank(p))

A passage's cosine is that of its best window: the encoder was trained on texts shorter than a
passage.

What the asker may not read is filtered inside both indexes, before ranking. (The word statistics
of BM25 are those of the whole index: a hidden passage is never scored, but its words count in how
rare a word is.)
"""

import fnmatch
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from pharos.core import Document, Embedder, Hit, Passage
from pharos.rag.access import readable
from pharos.rag.links import LEADING, lend
from pharos.rag.schema import DOCUMENTS, read_document, read_passage, sql_list
from pharos.rag.store import Snapshot
from pharos.rag.vector_index import nearest

Mode = Literal["hybrid", "dense", "bm25"]

RRF_K = 60
DEPTH = 60
MAX_QUERY_CHARACTERS = 8_000
MAX_K = 1_000


class Ranked(NamedTuple):
    """A passage in a ranking, with the title of its document and the retriever's own score."""

    id: str
    title: str
    score: float


Ranking = list[Ranked]  # best first


def search(
    snapshot: Snapshot,
    embedder: Callable[[], Embedder],
    query: str,
    *,
    k: int,
    groups: Sequence[str],
    filters: Mapping[str, str] | None = None,
    mode: Mode = "hybrid",
) -> list[Hit]:
    """The `k` best passages that the groups may read and the filters let through, best first.

    `embedder` is called only if the mode needs vectors. `ValueError` for a query, a `k`, a mode or
    a filter that cannot be honoured.
    """
    _check(query, k, mode)
    where = restriction(snapshot, groups, filters)
    if where is None:
        return []
    depth = max(DEPTH, 2 * k)
    rankings: dict[str, Ranking] = {}
    with ThreadPoolExecutor(1) as beside:  # both retrievers work outside of Python
        if mode != "dense":
            by_words = beside.submit(bm25, snapshot, query, where, depth)
        if mode != "bm25":
            rankings["cosine"] = dense(snapshot, embedder(), query, where, depth)
        if mode != "dense":
            rankings["bm25"] = by_words.result()
    parts = explain(rankings)
    scores = fuse(rankings)
    passages = fetch(snapshot, _ordered(scores)[: max(k, LEADING)])
    if mode == "hybrid":
        scores = follow_links(scores, rankings, passages)
    best = _ordered(scores)[:k]
    passages |= fetch(snapshot, [id_ for id_ in best if id_ not in passages])
    return [Hit(passage=passages[id_], score=scores[id_], scores=parts[id_]) for id_ in best]


def search_with_structure(
    snapshot: Snapshot,
    embedder: Callable[[], Embedder],
    query: str,
    *,
    k: int,
    groups: Sequence[str],
    filters: Mapping[str, str] | None = None,
) -> tuple[list[Hit], dict[str, Document]]:
    """The hits, and by id their documents without the text, from the same snapshot: an answer that
    takes its time still names the headings and pages of what it read."""
    hits = search(snapshot, embedder, query, k=k, groups=groups, filters=filters)
    if not hits:
        return [], {}
    ids = {hit.passage.document_id for hit in hits}
    columns = [name for name in DOCUMENTS.names if name not in ("text", "signature")]
    rows = snapshot.documents.search().where(f"id IN {sql_list(ids)}").select(columns).to_list()
    return hits, {row["id"]: read_document({**row, "text": ""}) for row in rows}


def restriction(
    snapshot: Snapshot, groups: Sequence[str], filters: Mapping[str, str] | None
) -> str | None:
    """A filter for the indexes; "" if everything may be seen, None if nothing may."""
    reader_sets = snapshot.manifest.reader_sets
    allowed = readable(reader_sets, groups)
    if not allowed:
        return None
    clauses = [] if len(allowed) == len(reader_sets) else [f"readers IN {sql_list(allowed)}"]
    if filters:
        documents = matching_documents(snapshot, allowed, filters)
        if not documents:
            return None
        clauses.append(f"document_id IN {sql_list(documents)}")
    return " AND ".join(clauses)


def matching_documents(
    snapshot: Snapshot, allowed: Sequence[str], filters: Mapping[str, str]
) -> list[str]:
    """Ids of the documents whose fields match every filter, with `*` and `?` as in file names."""
    rows = (
        snapshot.documents.search()
        .where(f"status = 'indexed' AND readers IN {sql_list(allowed)}")
        .select(["id", "source", "title", "format", "metadata"])
        .to_list()
    )
    fields = {row["id"]: _fields(row) for row in rows}
    known = {key for values in fields.values() for key in values}
    for key in filters:
        if fields and key not in known:
            raise ValueError(
                f"no document has a field {key!r} to filter by; "
                f"the fields are {', '.join(sorted(known))}"
            )
    return [
        document_id
        for document_id, values in fields.items()
        if all(
            fnmatch.fnmatchcase(values.get(key, "").lower(), pattern.lower())
            for key, pattern in filters.items()
        )
    ]


def dense(snapshot: Snapshot, embedder: Embedder, query: str, where: str, depth: int) -> Ranking:
    """Passages by the cosine of their best window."""
    vector = embedder.embed([query])[0]
    search = (
        nearest(snapshot.windows, vector, is_filtered=bool(where))
        .select(["passage_id", "title", "_distance"])
        .limit(depth * windows_per_passage(snapshot))
    )
    if where:
        search = search.where(where, prefilter=True)
    best: dict[str, Ranked] = {}
    for row in search.to_list():
        ranked = Ranked(row["passage_id"], row["title"], 1.0 - row["_distance"])
        best.setdefault(ranked.id, ranked)
    return _by_score(best.values())[:depth]


def windows_per_passage(snapshot: Snapshot) -> int:
    """On average, rounded up: so many neighbours must be looked at for each passage wanted."""
    manifest = snapshot.manifest
    return max(1, -(-manifest.windows // max(manifest.passages, 1)))


def bm25(snapshot: Snapshot, query: str, where: str, depth: int) -> Ranking:
    """Passages by BM25 over the heading prefix and the text; none if the query has no word."""
    search = (
        snapshot.passages.search(query, query_type="fts", fts_columns="body")
        .select(["id", "title", "_score"])
        .limit(depth)
    )
    if where:
        search = search.where(where, prefilter=True)
    return _by_score(Ranked(r["id"], r["title"], float(r["_score"])) for r in search.to_list())


def fuse(rankings: Mapping[str, Ranking]) -> dict[str, float]:
    """The score of every passage that any retriever ranks; a retriever that does not rank it adds
    nothing, nor does one whose best score is not positive."""
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings.values():
        best = ranking[0].score if ranking else 0.0
        for rank, ranked in enumerate(ranking, start=1):
            share = max(ranked.score, 0.0) / best if best > 0.0 else 0.0
            scores[ranked.id] += share / (RRF_K + rank)
    return dict(scores)


def follow_links(
    scores: Mapping[str, float],
    rankings: Mapping[str, Ranking],
    passages: Mapping[str, Passage],
) -> dict[str, float]:
    """The scores after the leading passages, which `passages` must hold, have lent to the documents
    that they name."""
    titles = {ranked.id: ranked.title for ranking in rankings.values() for ranked in ranking}
    leading = _ordered(scores)[:LEADING]
    return lend(scores, titles, [(id_, passages[id_].text) for id_ in leading])


def explain(rankings: Mapping[str, Ranking]) -> dict[str, dict[str, float]]:
    """For every passage, each retriever's score and rank."""
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    for name, ranking in rankings.items():
        for rank, ranked in enumerate(ranking, start=1):
            parts[ranked.id] |= {name: ranked.score, f"{name}_rank": float(rank)}
    return parts


def _ordered(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda id_: (-scores[id_], id_))


def _by_score(ranking: Iterable[Ranked]) -> Ranking:
    return sorted(ranking, key=lambda ranked: (-ranked.score, ranked.id))


def fetch(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, Passage]:
    if not ids:
        return {}
    rows = snapshot.passages.search().where(f"id IN {sql_list(ids)}").limit(len(ids)).to_list()
    return {row["id"]: read_passage(row) for row in rows}


def _fields(row: Mapping[str, Any]) -> dict[str, str]:
    fixed = {key: row[key] for key in ("source", "title", "format")}
    return {**json.loads(row["metadata"]), **fixed}


def _check(query: str, k: int, mode: str) -> None:
    if not query.strip():
        raise ValueError("the query is empty; ask something")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ValueError(
            f"the query has {len(query):,} characters; "
            f"at most {MAX_QUERY_CHARACTERS:,} are searched for"
        )
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}; ask for 1 to {MAX_K:,} passages")
    if mode not in ("hybrid", "dense", "bm25"):
        raise ValueError(f"unknown mode {mode!r}; choose from hybrid, dense, bm25")
