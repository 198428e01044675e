import pytest

from pharos.rag.links import LENT, lend, named_as


def test_a_named_document_gets_half_of_the_score_of_the_passage_that_names_it() -> None:
    scores = {"film": 1.0, "person": 0.2, "other": 0.3}
    titles = {"film": "Glen or Glenda", "person": "Ed Wood", "other": "Plan 9"}
    raised = lend(scores, titles, [("film", "Directed by Ed Wood in 1953.")])
    assert raised == {"film": 1.0, "person": 0.2 + LENT * 1.0, "other": 0.3}


def test_what_is_lent_is_divided_among_the_passages_of_a_document() -> None:
    titles = {"film": "Film", "p1": "Ed Wood", "p2": "Ed Wood"}
    raised = lend({"film": 1.0, "p1": 0.1, "p2": 0.2}, titles, [("film", "by Ed Wood")])
    assert raised["p1"] == pytest.approx(0.1 + LENT / 2)
    assert raised["p2"] == pytest.approx(0.2 + LENT / 2)


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Roles", "the main roles are"),  # another case
        ("Wood", "Woodwork is fine"),  # part of a word
        ("IBM", "made by IBM then"),  # too short to mean much
        ("A.b", "Axb stands here"),  # no pattern
    ],
)
def test_what_only_looks_like_a_title_is_not_followed(title: str, text: str) -> None:
    scores = {"a": 1.0, "b": 0.5}
    assert lend(scores, {"a": "Start", "b": title}, [("a", text)]) == scores


def test_a_passage_lends_nothing_to_its_own_document() -> None:
    scores = {"a": 1.0, "b": 0.5}
    assert lend(scores, {"a": "Roles", "b": "Roles"}, [("a", "Roles are groups")]) == scores


def test_an_explanation_in_brackets_is_not_part_of_a_name() -> None:
    assert named_as("Metallica (album)") == "Metallica"
    assert named_as("Plan 9") == "Plan 9"
