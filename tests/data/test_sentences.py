import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.data.sentences import MAX_SENTENCE_LEN, split_sentences


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


MARKS = ["Dr. ", "A.", "e.g. ", "end. ", "?! ", "3.11 ", "http://a.b/c. ", "The ", "[1]", '"', ")"]
LAYOUT = ["\n", "\n\n", "\r\n", "\u2028", " ", "    ", "\t", "# ", "- ", "1. ", "| a |", "```\n"]
PIECES = st.sampled_from([*MARKS, *LAYOUT, "。", "…", "x"])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_every_visible_character_lies_in_exactly_one_sentence(text: str) -> None:
    spans = split_sentences(text)
    at = 0
    for start, end in spans:
        assert at <= start < end
        assert not text[at:start].strip()
        assert text[start:end] == text[start:end].strip()
        at = end
    assert not text[at:].strip()


@given(st.text(alphabet="ab .\n", min_size=MAX_SENTENCE_LEN, max_size=4 * MAX_SENTENCE_LEN))
def test_no_sentence_is_longer_than_the_limit(text: str) -> None:
    assert all(end - start <= MAX_SENTENCE_LEN for start, end in split_sentences(text))


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith arrived at 3 p.m. on Jan. 5 with Mr. Jones.",
        "See Fig. 3, e.g. the left part, i.e. the red one.",
        "Version 3.11.2 is at https://example.org/a.b/c?d=e. today.",
        "J. R. R. Tolkien wrote it.",
        "The U.S. Army and the U.N. Security Council agreed.",
        "Edit setup.cfg and run app.main() first.",
        "It costs $3.50 vs. $4.00 at Smith & Co. in town.",
        "No. 5 is alive.",
        "Wait ... there is more.",
    ],
)
def test_a_full_stop_within_a_sentence_does_not_end_it(sentence: str) -> None:
    assert sentences(sentence) == [sentence]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("It is so.[1][2] Next one.", ["It is so.[1][2]", "Next one."]),
        ("He lives in the U.S. The house is big.", ["He lives in the U.S.", "The house is big."]),
        ("Bread, milk etc. The rest later.", ["Bread, milk etc.", "The rest later."]),
        ("In 1990. It was late.", ["In 1990.", "It was late."]),
        ("北京。上海！東京？", ["北京。", "上海！", "東京？"]),
    ],
)
def test_sentences_end_where_they_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_line_break_within_a_paragraph_is_a_space() -> None:
    text = "The first sentence runs\nover two lines. The second\ndoes so too."
    assert sentences(text) == [
        "The first sentence runs\nover two lines.",
        "The second\ndoes so too.",
    ]


def test_headings_items_and_table_rows_stand_alone() -> None:
    text = "# Title\nProse follows. More.\n- one\n- two\n1. First. 2. Second.\n| a | b |\n| 1 | 2 |"
    assert sentences(text) == [
        "# Title",
        "Prose follows.",
        "More.",
        "- one",
        "- two",
        "1. First.",
        "2. Second.",
        "| a | b |",
        "| 1 | 2 |",
    ]


def test_a_title_without_markup_is_told_by_its_length() -> None:
    text = "Installation\nThe program is installed by copying it into a folder of your choice."
    assert sentences(text)[0] == "Installation"


def test_code_is_not_cut_at_its_dots() -> None:
    indented = "    import os. path\n    x = 1. Y\n"
    fenced = "```\na. B\n\nc. D\n```"
    assert sentences(f"Do this:\n\n{indented}\nThen that.")[1] == indented.strip()
    assert sentences(f"Do this:\n{fenced}\nThen that.")[1:3] == ["```\na. B", "c. D\n```"]
