from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.rag.library import Library
from pharos.rag.search import Ranked, Ranking, fuse


def ranking(**scores: float) -> Ranking:
    return [Ranked(id_, id_, score) for id_, score in scores.items()]


orders = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(orders, orders)
def test_fusion_scores_every_passage_that_any_retriever_ranks(
    first: list[str], second: list[str]
) -> None:
    by_rank = [{id_: 1.0 / rank for rank, id_ in enumerate(o, start=1)} for o in (first, second)]
    scores = fuse({"cosine": ranking(**by_rank[0]), "bm25": ranking(**by_rank[1])})
    assert scores.keys() == {*first, *second}
    assert all(score > 0.0 for score in scores.values())


@given(orders)
def test_a_passage_that_leads_both_rankings_leads_the_fusion(order: list[str]) -> None:
    scores = {id_: 1.0 / rank for rank, id_ in enumerate(order, start=1)}
    fused = fuse({"cosine": ranking(**scores), "bm25": ranking(**scores)})
    assert sorted(fused, key=lambda id_: -fused[id_]) == order


def test_a_vote_is_a_reciprocal_rank_weighted_by_the_share_of_the_best_score() -> None:
    fused = fuse({"cosine": ranking(a=0.8, b=0.4), "bm25": ranking(b=10.0, c=5.0)})
    assert fused == pytest.approx({"a": 1 / 61, "b": 0.5 / 62 + 1 / 61, "c": 0.5 / 62})


def test_a_clear_winner_of_one_retriever_stays_ahead() -> None:
    """Which is what fusing by rank alone loses."""
    fused = fuse(
        {
            "cosine": ranking(second=0.50, third=0.49, clear=0.48),
            "bm25": ranking(clear=30.0, third=6.0, second=5.0),
        }
    )
    assert max(fused, key=lambda id_: fused[id_]) == "clear"


def test_a_retriever_whose_best_score_is_not_positive_adds_nothing() -> None:
    assert fuse({"cosine": ranking(a=-0.1, b=-0.2)}) == {"a": 0.0, "b": 0.0}


def test_a_document_that_the_best_passage_names_is_raised(library: Library, docs: Path) -> None:
    (docs / "film.md").write_text("# Glen or Glenda\n\nThe film was directed by Ed Wood.\n")
    (docs / "person.md").write_text("# Ed Wood\n\nHe was born in Poughkeepsie, of all places.\n")
    library.ingest([docs])
    titles = [hit.passage.title for hit in library.search("who directed the film Glen or Glenda")]
    assert titles[:2] == ["Glen or Glenda", "Ed Wood"]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_what_the_asker_may_not_read_is_not_found_in_any_mode(
    library: Library, docs: Path, mode: str
) -> None:
    library.ingest([docs / "guides"])
    library.ingest([docs / "roles.md"], groups=["admins", "board"])
    everything = library.search("drop a role", k=50, mode=mode)  # type: ignore[arg-type]
    assert all("roles.md" not in hit.passage.source for hit in everything)
    admins = library.search("drop a role", k=50, groups=["admins"], mode=mode)  # type: ignore[arg-type]
    assert {Path(hit.passage.source).name for hit in admins} == {"roles.md"}
    assert library.search("drop a role", groups=["strangers"], mode=mode) == []  # type: ignore[arg-type]


def test_a_group_name_cannot_break_out_of_the_filter(library: Library, docs: Path) -> None:
    library.ingest([docs / "roles.md"], groups=["admins"])
    library.ingest([docs / "guides"], groups=["o'brien"])
    for hostile in ("x') OR ('1'='1", "admins' --", '["admins"]', "%"):
        assert library.search("role", groups=[hostile]) == []
    assert library.search("backup", groups=["o'brien"])


def test_an_asker_without_groups_is_refused(library: Library, docs: Path) -> None:
    library.ingest([docs])
    with pytest.raises(ValueError, match="at least one group"):
        library.search("role", groups=[])


def test_filters_narrow_by_any_field_with_wildcards(library: Library, docs: Path) -> None:
    library.ingest([docs])
    found = library.search("the database", k=50, filters={"source": "*/guides/*"})
    assert {Path(hit.passage.source).name for hit in found} == {"backup.md", "vacuum.txt"}
    found = library.search("the database", k=50, filters={"title": "backup"})
    assert {Path(hit.passage.source).name for hit in found} == {"backup.md"}
    assert library.search("the database", filters={"title": "nothing"}) == []


def test_a_filter_does_not_show_what_the_asker_may_not_read(library: Library, docs: Path) -> None:
    library.ingest([docs / "roles.md"], groups=["admins"])
    library.ingest([docs / "guides"])
    assert library.search("role", filters={"title": "Roles"}) == []


def test_an_unknown_filter_names_the_known_fields(library: Library, docs: Path) -> None:
    library.ingest([docs])
    with pytest.raises(ValueError, match=r"a field 'colour' .*format, source, title"):
        library.search("role", filters={"colour": "red"})


def test_scores_say_what_a_hit_is_made_of(library: Library, docs: Path) -> None:
    library.ingest([docs])
    best = library.search("What does DROP ROLE remove?")[0]
    assert {"cosine", "cosine_rank", "bm25", "bm25_rank"} <= best.scores.keys()
    assert -1.0 <= best.scores["cosine"] <= 1.0
    assert "bm25" not in library.search("role", mode="dense")[0].scores


def test_k_bounds_the_hits_and_their_order_is_that_of_their_scores(
    library: Library, docs: Path
) -> None:
    library.ingest([docs])
    hits = library.search("a role or a group", k=2)
    assert len(hits) == 2
    assert hits[0].score >= hits[1].score


@pytest.mark.parametrize(
    "query", ['"', "AND OR NOT", "a:b^2~", "(((", "%_'; --", "ünïcödé ☃", "\x00"]
)
def test_no_query_is_taken_for_syntax(library: Library, docs: Path, query: str) -> None:
    library.ingest([docs])
    library.search(query)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "  "}, "the query is empty"),
        ({"query": "x" * 9000}, "9,000 characters"),
        ({"query": "x", "k": 0}, "k is 0"),
        ({"query": "x", "k": 10**12}, "ask for 1 to 1,000"),
        ({"query": "x", "mode": "fast"}, "choose from hybrid, dense, bm25"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_by_name(
    library: Library, docs: Path, arguments: dict[str, object], message: str
) -> None:
    library.ingest([docs])
    with pytest.raises(ValueError, match=message):
        library.search(**arguments)  # type: ignore[arg-type]
