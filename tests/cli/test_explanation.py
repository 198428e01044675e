import json

import pytest

from pharos.cli.explanation import explanation_object, print_explanation
from pharos.core import Hit, Passage, Span
from pharos.core.findings import Checked, Explanation, Grounding, Reading

TEXT = "The keeper feeds seven gulls.\x1b[31m"
PASSAGE = Passage(
    id="p",
    document_id="d",
    source="lights.txt",
    title="Lights",
    headings=(),
    page=3,
    start=100,
    end=100 + len(TEXT),
    text=TEXT,
)
HIT = Hit(
    passage=PASSAGE,
    score=0.91,
    scores={"bm25": 4.0, "search": 0.0312, "search_rank": 7.0, "rerank": 0.91},
)
WHOLE = Explanation(
    candidates=(HIT,),
    reading=Reading(spans=(Span(passage=PASSAGE, start=17, end=22, score=0.84),), answerable=0.97),
    checked=(
        Checked(
            statement="How many gulls? Seven.",
            evidence=TEXT,
            grounding=Grounding(supported=0.8, contradicted=0.15),
        ),
    ),
    risks={"": 0.02, "p": 0.6},
)


def test_everything_that_was_said_is_shown_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    print_explanation(WHOLE)
    shown = capsys.readouterr()
    assert shown.out == ""
    for said in (
        "7 ",
        "0.0312",
        "0.910",
        "There is an answer: 0.970",
        "seven",
        "0.840",
        "lights.txt",
    ):
        assert said in shown.err
    for said in ("yes", "0.800", "0.150", "How many gulls? Seven.", "the question", "0.600"):
        assert said in shown.err


def test_a_document_steers_no_terminal_from_within_a_table(capsys) -> None:
    print_explanation(WHOLE)
    assert "\x1b[31m" not in capsys.readouterr().err


def test_of_those_who_were_not_asked_nothing_is_shown(capsys) -> None:
    print_explanation(Explanation(candidates=(Hit(passage=PASSAGE, score=1.0),)))
    assert capsys.readouterr().err == ""


def test_the_object_has_the_same_keys_whoever_was_asked() -> None:
    whole, empty = explanation_object(WHOLE), explanation_object(Explanation())
    assert whole.keys() == empty.keys()
    assert json.loads(json.dumps(whole)) == whole
    assert whole["spans"] == [
        {"document": "lights.txt", "start": 117, "end": 122, "text": "seven", "score": 0.84}
    ]
    assert whole["risks"][0] == {"document": None, "start": None, "end": None, "risk": 0.02}
    assert empty["answerable"] is None
