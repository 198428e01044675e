"""The four specialists on a tiny BERT, each of which has learned that one word decides."""

from pathlib import Path

import numpy as np
import pytest

from pharos.core import Hit, Passage, Reader, Reranker, Span
from pharos.core.findings import (
    AnswerFinder,
    GroundingChecker,
    Guard,
    Specialists,
)
from pharos.data.tokenizer import Tokenizer
from pharos.specialists.cards import read_card
from pharos.specialists.reranker import RerankerConfig, priors
from pharos.specialists.shared_encoder import SharedEncoder, load_shared_encoder
from pharos.specialists.span_reader import (
    Candidate,
    SpanReader,
    SpanReaderConfig,
    best_spans,
    collected,
    load_span_reader,
    wording,
)
from pharos.specialists.team import ShippedTeam, load_specialists
from pharos.specialists.windows import Pairs

QUESTION = "who feeds the gulls ?"
PADDING = "the old stone tower of the town burns in the night . " * 6


@pytest.fixture(scope="module")
def specialists(
    shared: SharedEncoder,
    reranker_folder: Path,
    reader_folder: Path,
    injection_folder: Path,
    grounding_folder: Path,
) -> Specialists:
    folders = (reranker_folder, reader_folder, injection_folder, grounding_folder)
    (adapters,) = {folder.parent for folder in folders}
    return load_specialists(shared, adapters)


def hit_of(
    text: str, name: str = "a", *, score: float = 1.0, start: int = 0, **scores: float
) -> Hit:
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
    return Hit(passage=passage, score=score, scores=scores)


def test_what_is_not_there_is_left_out(shared: SharedEncoder, tmp_path: Path) -> None:
    assert load_specialists(shared, tmp_path) == Specialists()


def test_one_is_loaded_when_it_is_first_asked_and_no_earlier(
    base: Path, reader_folder: Path
) -> None:
    shared = load_shared_encoder(str(base), "fp32", threads=1)
    team = ShippedTeam(shared, reader_folder.parent)
    assert shared.lanes.keys() == {"sentences"}
    assert team.reader is team.reader is not None
    assert shared.lanes.keys() == {"sentences", "reader"}


def test_they_are_what_the_pipeline_asks_for(specialists: Specialists) -> None:
    assert isinstance(specialists.reranker, Reranker)
    assert isinstance(specialists.reader, AnswerFinder)
    assert isinstance(specialists.reader, Reader)
    assert isinstance(specialists.guard, Guard)
    assert isinstance(specialists.grounding, GroundingChecker)


def test_a_relevant_passage_is_ranked_above_the_others(specialists: Specialists) -> None:
    assert specialists.reranker
    hits = [hit_of(f"the {word} is in the tower .") for word in ("does", "harbour", "old")]
    relevances = specialists.reranker.rerank(QUESTION, hits)
    assert relevances[1] == max(relevances) > 0.5
    assert all(0.0 < relevance < 1.0 for relevance in relevances)
    assert specialists.reranker.rerank(QUESTION, []) == []


def test_a_long_passage_is_as_relevant_as_its_best_window(specialists: Specialists) -> None:
    assert specialists.reranker
    hits = [
        hit_of(f"{PADDING} does {PADDING}"),
        hit_of(f"{PADDING} the harbour is in the tower . {PADDING}"),
    ]
    without, inside = specialists.reranker.rerank(QUESTION, hits)
    assert inside > without


def test_a_prior_is_the_share_of_the_best_score() -> None:
    assert priors([hit_of("a", score=0.5), hit_of("b", score=1.0)]) == [np.log(0.5), 0.0]
    assert priors([hit_of("a", score=0.0)]) == [0.0]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_windows is 0; it must be at least 1"):
        RerankerConfig(max_windows=0)
    with pytest.raises(ValueError, match="max_passages is 0; it must be at least 1"):
        SpanReaderConfig(max_passages=0)


def test_the_answer_is_found_wherever_it_stands(specialists: Specialists) -> None:
    assert specialists.reader
    for text in ("the keeper sees seven gulls .", f"{PADDING} seven ships in the tower ."):
        reading = specialists.reader.find(QUESTION, [hit_of(text)])
        assert reading.spans[0].text == "seven"


def test_where_there_is_no_answer_the_reader_says_so(specialists: Specialists) -> None:
    assert specialists.reader
    some = specialists.reader.find(QUESTION, [hit_of("seven ships in the tower .")])
    none = specialists.reader.find(QUESTION, [hit_of("ships does in the tower .")])
    assert none.answerable < 0.5 < some.answerable


def test_nothing_to_read_is_no_answer(specialists: Specialists) -> None:
    assert specialists.reader
    for hits in ([], [hit_of("")]):
        reading = specialists.reader.find(QUESTION, hits)
        assert (reading.spans, reading.answerable) == ((), 0.0)


def test_only_the_best_passages_are_read(specialists: Specialists) -> None:
    reader = specialists.reader
    assert isinstance(reader, SpanReader)
    hits = [hit_of("old ships .", name=str(i)) for i in range(5)]
    reading = reader.find(QUESTION, [*hits, hit_of("seven ships .")])
    assert "seven" not in {span.text for span in reading.spans}


def test_of_a_very_long_passage_what_says_most_of_the_question_is_read(
    shared: SharedEncoder, reader_folder: Path, specialists: Specialists
) -> None:
    pairs = Pairs(Tokenizer.load(shared.folder.path))
    config = SpanReaderConfig(max_windows=1)
    reader = load_span_reader(shared, pairs, reader_folder, read_card(reader_folder), config)
    text = f"nine {PADDING * 4} who feeds the gulls seven {PADDING * 4}"
    assert {span.text for span in reader.find(QUESTION, [hit_of(text)]).spans} >= {"seven"}
    assert "nine" not in {span.text for span in reader.find(QUESTION, [hit_of(text)]).spans}


def test_spans_begin_and_end_with_words(specialists: Specialists) -> None:
    assert specialists.reader
    text = "the keeper's $seven-nine gulls ."
    words = {"the", "keeper", "'", "s", "$", "seven", "-", "nine", "gulls", "."}
    for span in specialists.reader.find(QUESTION, [hit_of(text)]).spans:
        before, after = text[: span.start], text[span.end :]
        assert span.text == span.text.strip()
        assert not (before and before[-1].isalnum() and span.text[0].isalnum()), words
        assert not (after and after[0].isalnum() and span.text[-1].isalnum()), words


def test_the_same_wording_in_several_places_adds_up() -> None:
    hits = [hit_of("Seven gulls", "a"), hit_of("the seven", "b"), hit_of("nine", "c")]
    found = [Candidate(0, 0, 5, 0.4), Candidate(1, 0, 9, 0.4), Candidate(2, 0, 4, 0.5)]
    spans = collected(hits, found)
    assert [span.text for span in spans] == ["Seven", "nine"]
    assert [round(span.score, 3) for span in spans] == [0.64, 0.5]


def test_a_place_that_two_passages_share_counts_once() -> None:
    hits = [hit_of("gulls seven", "a", start=0), hit_of("seven", "a", start=6)]
    (span,) = collected(hits, [Candidate(0, 6, 11, 0.4), Candidate(1, 0, 5, 0.3)])
    assert span == Span(passage=hits[0].passage, start=6, end=11, score=pytest.approx(0.4))


def test_a_passage_is_believed_by_its_share_of_the_best_relevance() -> None:
    hits = [hit_of("seven", "a", rerank=0.8), hit_of("nine", "b", rerank=0.2)]
    spans = collected(hits, [Candidate(0, 0, 5, 0.4), Candidate(1, 0, 4, 0.6)])
    assert [round(span.score, 3) for span in spans] == [0.4, 0.15]


def test_of_two_answers_at_one_place_the_better_is_kept() -> None:
    hits = [hit_of("seven old gulls", "a")]
    spans = collected(hits, [Candidate(0, 0, 9, 0.3), Candidate(0, 0, 5, 0.4)])
    assert [span.text for span in spans] == ["seven"]


def test_an_answer_is_no_longer_than_it_may_be_and_ends_after_it_begins() -> None:
    draw = np.random.default_rng(0)
    start, end = draw.random(9), draw.random(9)
    found = list(best_spans(start, end, 3, 100))
    assert len(found) == 9 + 8 + 7
    assert all(0 <= j - i < 3 for i, j, _ in found)
    assert [p for *_, p in found] == sorted((p for *_, p in found), reverse=True)
    assert found[0][2] == max(start[i] * end[j] for i in range(9) for j in range(i, min(i + 3, 9)))


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The Seven, gulls!", "seven gulls"), ("a", "a"), ("$", "$"), ("Θάλασσα", "θάλασσα")],
)
def test_wordings_are_compared_without_case_articles_and_punctuation(text: str, plain: str) -> None:
    assert wording(text) == plain


def test_an_attack_is_told_from_harmless_text_even_in_the_middle(specialists: Specialists) -> None:
    guard = specialists.guard
    assert guard
    attack, harmless, hidden = guard.risks(
        ["ignore the tower .", "keep the tower .", f"{PADDING} ignore the tower . {PADDING}"]
    )
    assert attack > 0.5 > harmless
    assert hidden > 0.5
    assert guard.threshold == 0.9
    assert guard.risks([]) == []


def test_a_statement_is_supported_contradicted_or_not_spoken_of(specialists: Specialists) -> None:
    checker = specialists.grounding
    assert checker
    statement = "the keeper feeds gulls ."
    texts = [f"the {word} old stone ." for word in ("harbour", "not", "rules")]
    found = checker.check([(statement, text) for text in texts])
    assert [one.verdict for one in found] == ["yes", "contradicts", "no"]
    assert all(0.0 <= one.supported + one.contradicted <= 1.0 for one in found)
    assert checker.check([]) == []


def test_grounding_looks_at_the_window_that_speaks_of_the_statement(
    specialists: Specialists,
) -> None:
    assert specialists.grounding
    long = f"{PADDING} does the harbour old stone ."
    (found,) = specialists.grounding.check([("the tower burns .", long)])
    assert found.supported > found.contradicted
