"""Hybrid search: dense vectors and BM25, fused by relative score.

Each retriever ranks the passages that the asker may read. A passage's score is the mean of what it
reaches of each retriever's best score for this query. One that BM25 does not rank shares no word
with the query, and counts 0 there; one that the vectors do not rank lies below the last that they
do, and counts as that. Reciprocal rank fusion (Cormack, Clarke & Buettcher 2009) throws away how
clear a winner is, and was measurably worse (docs/log.md).

A passage's cosine is that of its best window: the encoder was trained on texts shorter than a
passage.

What the asker may not read is filtered inside both indexes, before ranking. (The word statistics
of BM25 are those of the whole index: a hidden passage is never scored, but its words count in how
rare a word is.)
"""

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from lancedb.query import LanceVectorQueryBuilder

from pharos.core import Embedder, Hit, Passage
from pharos.rag.access import readable
from pharos.rag.schema import read_passage, sql_list
from pharos.rag.store import Snapshot

Mode = Literal["hybrid", "dense", "bm25"]
Ranking = list[tuple[str, float]]  # passage ids, best first, with the retriever's own score

DEPTH = 100
WINDOWS_PER_PASSAGE = 3
MAX_QUERY_CHARACTERS = 8_000


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
    if mode != "bm25":
        rankings["cosine"] = dense(snapshot, embedder(), query, where, depth)
    if mode != "dense":
        rankings["bm25"] = bm25(snapshot, query, where, depth)
    fused = fuse(rankings)[:k]
    passages = fetch(snapshot, [passage_id for passage_id, _, _ in fused])
    return [
        Hit(passage=passages[passage_id], score=score, scores=scores)
        for passage_id, score, scores in fused
    ]


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
    search = cast(
        LanceVectorQueryBuilder, snapshot.windows.search(vector, vector_column_name="vector")
    )
    search = (
        search.distance_type("cosine")
        .select(["passage_id", "_distance"])
        .limit(depth * WINDOWS_PER_PASSAGE)
    )
    if where:
        search = search.where(where, prefilter=True)
    best: dict[str, float] = {}
    for row in search.to_list():
        best.setdefault(row["passage_id"], 1.0 - row["_distance"])
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:depth]


def bm25(snapshot: Snapshot, query: str, where: str, depth: int) -> Ranking:
    """Passages by BM25 over the heading prefix and the text; none if the query has no word."""
    search = (
        snapshot.passages.search(query, query_type="fts", fts_columns="body")
        .select(["id", "_score"])
        .limit(depth)
    )
    if where:
        search = search.where(where, prefilter=True)
    rows = [(row["id"], float(row["_score"])) for row in search.to_list()]
    return sorted(rows, key=lambda item: (-item[1], item[0]))


def fuse(rankings: Mapping[str, Ranking]) -> list[tuple[str, float, dict[str, float]]]:
    """Relative score fusion: (passage id, score, what it was made of), best first; ties by id."""
    scores: dict[str, dict[str, float]] = {}
    for name, ranking in rankings.items():
        for rank, (passage_id, score) in enumerate(ranking, start=1):
            scores.setdefault(passage_id, {}).update({name: score, f"{name}_rank": float(rank)})
    shares = [_share(name, ranking) for name, ranking in rankings.items() if ranking]
    fused = [
        (passage_id, sum(share(parts) for share in shares) / len(shares), parts)
        for passage_id, parts in scores.items()
    ]
    return sorted(fused, key=lambda item: (-item[1], item[0]))


def _share(name: str, ranking: Ranking) -> Callable[[Mapping[str, float]], float]:
    """From a passage's scores to its share of the best score of one retriever."""
    best, worst = ranking[0][1], ranking[-1][1]
    absent = 0.0 if name == "bm25" else worst
    scale = abs(best) or 1.0  # cosines may all be negative
    return lambda parts: parts.get(name, absent) / scale


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
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 passage")
    if mode not in ("hybrid", "dense", "bm25"):
        raise ValueError(f"unknown mode {mode!r}; choose from hybrid, dense, bm25")
