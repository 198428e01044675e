from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pharos.core import Hit, Passage, Reader
from pharos.core.doubles import HashEmbedder
from pharos.rag.reader import ExtractiveReader, ReaderConfig

MANUAL = """\
Roles

A role is a user or a group of users. DROP ROLE removes a role. Its objects must be dropped first.

How is a role removed?

To list the roles, run:

    SELECT rolname FROM pg_roles;

Release 9.4 came out in 2014. It was well received by Ada Lovelace.
"""


def passage_of(
    text: str, document: str = "doc", start: int = 0, headings: tuple[str, ...] = ()
) -> Passage:
    return Passage(
        id=f"{document}-{start}",
        document_id=document,
        source=document,
        title="",
        headings=headings,
        page=None,
        start=start,
        end=start + len(text),
        text=text,
    )


def hits_of(*passages: Passage) -> list[Hit]:
    return [Hit(passage=p, score=1.0, scores={"cosine": 0.5}) for p in passages]


class Counting(HashEmbedder):
    def __init__(self) -> None:
        super().__init__(256)
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded += texts
        return super().embed(texts)


def read(question: str, *hits: Hit, config: ReaderConfig | None = None) -> list[str]:
    return [s.text for s in ExtractiveReader(HashEmbedder(256), config).read(question, hits)]


def test_the_reader_is_a_reader() -> None:
    assert isinstance(ExtractiveReader(HashEmbedder()), Reader)


def test_the_sentence_that_says_most_of_the_question_comes_first() -> None:
    best, *_ = read("Which command removes a role?", *hits_of(passage_of(MANUAL)))
    assert best.startswith("DROP ROLE removes a role.")


def test_a_question_and_a_heading_are_no_answer() -> None:
    for question in ("How is a role removed?", "Roles"):
        quotes = read(question, *hits_of(passage_of(MANUAL)))
        assert all("?" not in quote and quote != "Roles" for quote in quotes)


def test_what_a_colon_introduces_is_quoted_with_it() -> None:
    best, *_ = read("How do I list the roles?", *hits_of(passage_of(MANUAL)))
    assert best == "To list the roles, run:\n\n    SELECT rolname FROM pg_roles;"


def test_a_question_for_a_date_prefers_a_sentence_with_one() -> None:
    text = "The release was late. The release of 2014 was early. The release was good."
    best, *_ = read("When was the release?", *hits_of(passage_of(text)))
    assert "2014" in best


def test_neighbouring_sentences_become_one_quote() -> None:
    text = "The port is set by PGPORT. The port defaults to 5432. Cats sleep."
    config = ReaderConfig(max_quotes=2, keep=0.0)
    assert read("Which port is the default port?", *hits_of(passage_of(text)), config=config) == [
        "The port is set by PGPORT. The port defaults to 5432."
    ]


def test_overlapping_passages_do_not_quote_the_same_words_twice() -> None:
    text = "Cats sleep. The port defaults to 5432. Dogs bark. The port may be changed."
    config = ReaderConfig(keep=0.0)
    for other in (passage_of(text[12:], start=12), passage_of(text, document="copy")):
        quotes = read("Which port?", *hits_of(passage_of(text), other), config=config)
        assert sum("5432" in quote for quote in quotes) == 1


def test_no_more_sentences_are_embedded_than_allowed() -> None:
    embedder = Counting()
    text = " ".join(f"The port {n} is open." for n in range(200))
    ExtractiveReader(embedder, ReaderConfig(max_embedded=7)).read(
        "Which port?", hits_of(passage_of(text))
    )
    assert len(embedder.embedded) == 1 + 7


def test_nothing_to_read_is_no_answer() -> None:
    assert read("Which port?") == []
    assert read("Which port?", *hits_of(passage_of("Ports\n\nWhich?"))) == []
    assert read("???", *hits_of(passage_of("?!"))) == []


def test_hits_without_scores_are_read_too() -> None:
    hit = Hit(passage=passage_of("The port defaults to 5432."), score=0.0)
    assert read("Which port is the default?", hit) == ["The port defaults to 5432."]


@settings(max_examples=50)
@given(
    st.text(max_size=60),
    st.lists(st.text(alphabet="ab. \n:#-?AB1", min_size=1, max_size=80), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_spans_are_sound_whatever_the_text(question: str, texts: list[str], keep: float) -> None:
    hits = hits_of(*(passage_of(text, document=str(n)) for n, text in enumerate(texts)))
    spans = ExtractiveReader(HashEmbedder(), ReaderConfig(keep=keep)).read(question, hits)
    assert len(spans) <= ReaderConfig().max_quotes
    assert [s.score for s in spans] == sorted((s.score for s in spans), reverse=True)
    for span in spans:
        assert 0.0 <= span.score <= 1.0
        assert span.text == span.text.strip() != ""
    places = sorted((s.passage.id, s.start, s.end) for s in spans)
    for (one, _, end), (other, start, _) in pairwise(places):
        assert one != other or end <= start


def test_a_configuration_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="keep is 2"):
        ReaderConfig(keep=2.0)
    with pytest.raises(ValueError, match="max_quotes is 0"):
        ReaderConfig(max_quotes=0)
