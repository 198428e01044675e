import json
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import Hit, Passage, Span
from pharos.core.findings import Reading
from pharos.rag.confidence import (
    AS_READ,
    CARD,
    Belief,
    Calibration,
    Logistic,
    default_calibration,
    judge,
    signs_of,
)

TEXT = "Ada Lovelace wrote the first program in 1843."


def hit_of(name: str, bm25: float = 1.0, text: str = TEXT, start: int = 0) -> Hit:
    passage = Passage(
        id=f"{name}-{start}",
        document_id=name,
        source=name,
        title="",
        headings=(),
        page=None,
        start=start,
        end=start + len(text),
        text=text,
    )
    return Hit(passage=passage, score=bm25, scores={"bm25": bm25, "cosine": 0.5})


def span_of(hit: Hit, score: float) -> Span:
    return Span(passage=hit.passage, start=0, end=3, score=score)


def test_the_calibration_that_ships_names_every_sign_and_its_origin() -> None:
    calibration = default_calibration()
    signs = signs_of("Who?", [hit_of("a")], [span_of(hit_of("a"), 0.5)])
    assert set(calibration.quoted.weights) == set(signs) == set(calibration.retrieved.weights)
    assert 0.0 < calibration.threshold < 1.0
    card = json.loads(resources.files("pharos.rag").joinpath(CARD).read_text(encoding="utf-8"))
    assert "CC BY-SA 4.0" in card["data"]
    assert {"command", "figures"} <= set(card)


def test_the_signs_that_ship_point_the_right_way() -> None:
    weights = default_calibration().quoted.weights
    assert weights["reader"] > 0
    assert weights["lead"] > 0
    assert weights["rival"] > 0
    assert weights["names_missing"] < 0


def test_nothing_found_is_not_believed() -> None:
    assert judge("Who?", [hit_of("a")], []) == Belief(quoted=0.0, retrieved=0.0)


def test_a_passage_far_ahead_of_the_others_leads() -> None:
    hits = [hit_of("a", 10.0), hit_of("b", 2.0), hit_of("c", 2.0)]
    assert signs_of("Who?", hits, [span_of(hits[0], 0.5)])["lead"] == pytest.approx(0.8)
    assert signs_of("Who?", hits, [span_of(hits[1], 0.5)])["lead"] == pytest.approx(-0.4)


def test_passages_that_share_its_text_are_no_rivals() -> None:
    first, overlapping, other = hit_of("a", 10.0), hit_of("a", 9.0, start=20), hit_of("b", 5.0)
    spans = [span_of(first, 0.5), span_of(overlapping, 0.5), span_of(other, 0.3)]
    signs = signs_of("Who?", [first, overlapping, other], spans)
    assert signs["lead"] == pytest.approx(0.5)
    assert signs["rival"] == pytest.approx(0.847, abs=0.001)
    assert signs_of("Who?", [first, overlapping], spans[:2])["rival"] == 1.5


def test_names_and_numbers_that_the_passage_lacks_count_against_it() -> None:
    hit = hit_of("a")
    spans = [span_of(hit, 0.5)]
    for question, missing in (
        ("Did Lovelace write it in 1843?", 0.0),
        ("Did Lovelace write it in 1844?", 0.5),
        ("Did Babbage write it in 1844?", 1.0),
        ("Who wrote it?", 0.0),
    ):
        assert signs_of(question, [hit], spans)["names_missing"] == missing


@given(st.lists(st.floats(0, 1), min_size=1, max_size=3), st.floats(-5, 100), st.text(max_size=30))
def test_a_probability_is_a_probability(scores: list[float], bm25: float, question: str) -> None:
    hits = [hit_of(str(n), bm25 / (n + 1)) for n in range(len(scores))]
    belief = judge(question, hits, [span_of(h, s) for h, s in zip(hits, scores, strict=True)])
    assert 0.0 < belief.quoted < 1.0
    assert 0.0 < belief.retrieved < 1.0


def test_another_calibration_may_be_given() -> None:
    sure = Logistic(weights={}, bias=100.0)
    calibration = Calibration(quoted=sure, retrieved=Logistic(weights={}, bias=0.0), threshold=0.5)
    hit = hit_of("a")
    belief = judge("Who?", [hit], [span_of(hit, 0.5)], calibration)
    assert belief.quoted > 0.999
    assert belief.retrieved == 0.5


def test_a_trained_reader_adds_signs_of_its_own() -> None:
    hit = hit_of("a")
    reading = Reading(spans=(span_of(hit, 0.9),), answerable=0.8)
    plain = signs_of("Who?", [hit], [span_of(hit, 0.5)])
    signs = signs_of("Who?", [hit], [span_of(hit, 0.5)], reading)
    assert signs.items() >= plain.items()
    assert signs["answer"] > signs["answerable"] > 0.0
    assert signs["agreement"] == 1.0
    assert signs["relevance"] == 0.0


def test_a_trained_reader_is_believed_as_it_says_where_nothing_is_fitted() -> None:
    hit = hit_of("a")
    reading = Reading(spans=(span_of(hit, 0.9),), answerable=0.8)
    belief = judge("Who?", [hit], [span_of(hit, 0.5)], AS_READ, reading=reading)
    assert (belief.quoted, belief.retrieved) == (pytest.approx(0.9), pytest.approx(0.8))
    nothing = judge("Who?", [hit], [span_of(hit, 0.5)], AS_READ, reading=Reading())
    assert nothing.quoted < 0.001
