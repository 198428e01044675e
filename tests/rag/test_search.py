from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.rag.library import Library
from pharos.rag.search import fuse

rankings = st.dictionaries(
    st.sampled_from(["cosine", "bm25"]),
    st.lists(st.sampled_from("abcdefgh"), unique=True).map(
        lambda ids: [(id_, 1.0 / (rank + 1)) for rank, id_ in enumerate(ids)]
    ),
)


@given(rankings)
def test_fusion_keeps_every_passage_once_in_the_order_of_its_score(
    ranked: dict[str, list[tuple[str, float]]],
) -> None:
    fused = fuse(ranked)
    assert {id_ for id_, _, _ in fused} == {
        id_ for ranking in ranked.values() for id_, _ in ranking
    }
    assert len({id_ for id_, _, _ in fused}) == len(fused)
    assert fused == sorted(fused, key=lambda item: (-item[1], item[0]))


def test_a_score_is_the_mean_share_of_the_best_scores() -> None:
    fused = fuse({"cosine": [("a", 0.8), ("b", 0.4)], "bm25": [("b", 10.0), ("c", 5.0)]})
    assert [(id_, pytest.approx(score)) for id_, score, _ in fused] == [
        ("b", (0.5 + 1.0) / 2),  # what both find
        ("a", (1.0 + 0.0) / 2),  # shares no word with the query
        ("c", (0.5 + 0.5) / 2),  # lies at most as near as the last that the vectors rank
    ]
    assert fused[0][2] == {"cosine": 0.4, "cosine_rank": 2.0, "bm25": 10.0, "bm25_rank": 1.0}


def test_a_clear_winner_of_one_retriever_stays_ahead() -> None:
    """Which is what fusing by rank alone loses."""
    fused = fuse(
        {
            "cosine": [("second", 0.50), ("third", 0.49), ("clear", 0.48)],
            "bm25": [("clear", 30.0), ("third", 6.0), ("second", 5.0)],
        }
    )
    assert fused[0][0] == "clear"


def test_one_ranking_alone_keeps_its_order() -> None:
    ranking = [("a", -0.1), ("b", -0.2), ("c", -0.3)]
    assert [id_ for id_, _, _ in fuse({"cosine": ranking})] == ["a", "b", "c"]


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
        ({"query": "x", "mode": "fast"}, "choose from hybrid, dense, bm25"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_by_name(
    library: Library, docs: Path, arguments: dict[str, object], message: str
) -> None:
    library.ingest([docs])
    with pytest.raises(ValueError, match=message):
        library.search(**arguments)  # type: ignore[arg-type]
