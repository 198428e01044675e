import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.data.cleaning import (
    Hyphenation,
    clean_line,
    clean_text,
    running_lines,
    squeeze_blank_lines,
)

ANY_TEXT = st.text(st.characters(), max_size=80)


@given(ANY_TEXT)
def test_clean_text_is_nfc_without_control_characters_and_stays_as_it_is(text: str) -> None:
    cleaned = clean_text(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in cleaned)
    assert clean_text(cleaned) == cleaned
    cleaned.encode("utf-8")


@given(ANY_TEXT)
def test_a_clean_line_is_one_line_with_single_blanks(text: str) -> None:
    line = clean_line(text)
    assert "\n" not in line and "  " not in line and line == line.strip()


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("a\r\nb\rc\u2028d\fe", "a\nb\nc\nd\ne"),
        ("co\u00adoperate\u200b", "cooperate"),
        ("ﬁne ﬂow aﬀair", "fine flow affair"),
        ("e\u0301te\u0301", "été"),
        ("5\u00a0km\u2009north", "5 km north"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("N\bNA\bAM\bME\bE", "NAME"),
        ("trailing  \t\nnext", "trailing\nnext"),
        ("\u202eevil\u202c", "evil"),
        ("lone \ud800 half", "lone \ufffd half"),
        ("\u2212\u2010\u2011", "---"),
    ],
)
def test_clean_text_mends(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


def test_blank_lines_are_squeezed_and_trimmed() -> None:
    assert squeeze_blank_lines("\n\na\n\n\n\nb\n") == "a\n\nb"


def test_a_divided_word_is_joined() -> None:
    assert Hyphenation([]).join("the pack", "ages supplied") == "the packages supplied"


def test_a_hyphen_stays_where_the_document_spells_it_so_elsewhere() -> None:
    hyphenation = Hyphenation(["a well-known rule"])
    assert hyphenation.join("it is well", "known that") == "it is well-known that"


def test_a_hyphen_stays_before_a_capital_or_a_digit() -> None:
    assert Hyphenation([]).join("the Franco", "Prussian war") == "the Franco-Prussian war"
    assert Hyphenation([]).join("version 3", "4 of") == "version 3-4 of"


def pages_of(header: str, footer: str, count: int) -> list[list[str]]:
    bodies = ["alpha " * 9, "gamma " * 9, "epsilon " * 9, "eta " * 9, "iota " * 9, "lambda " * 9]
    return [
        [
            header.format(n=n + 1),
            f"{bodies[n % 6]} begins",
            f"{bodies[n % 6]} ends",
            footer.format(n=n + 1),
        ]
        for n in range(count)
    ]


@pytest.mark.parametrize("footer", ["{n}", "Page {n} of 9", "- {n} -", "ACME handbook, page {n}"])
def test_running_headers_and_page_numbers_are_found(footer: str) -> None:
    pages = pages_of("Annual report", footer, 5)
    assert running_lines(pages) == [{0, 3}] * 5


def test_a_header_that_changes_with_the_chapter_is_known_by_its_page_number() -> None:
    pages = [
        [f"Chapter {n // 2}: Title {n // 2} {n + 7}", f"body {'abcdefgh'[n]} " * 9]
        for n in range(8)
    ]
    assert running_lines(pages) == [{0}] * 8


def test_body_text_is_never_a_running_line() -> None:
    pages = [
        ["The first thing.", "Another."],
        ["Something else.", "More."],
        ["The end.", "Really."],
    ]
    assert running_lines(pages) == [set(), set(), set()]


def test_numbers_that_count_on_without_being_page_numbers_stay() -> None:
    pages = [
        [f"Invoice {4711 + n}", f"Sum {n * 17 % 23} EUR", f"{'abcdef'[n]} thanks"] for n in range(6)
    ]
    assert running_lines(pages) == [set()] * 6


def test_pages_that_are_all_alike_keep_their_text() -> None:
    assert running_lines([["Form A", "Name:", "Date:"]] * 5) == [set()] * 5


def test_a_single_page_keeps_its_number() -> None:
    assert running_lines([["42"]]) == [set()]


@given(st.lists(st.lists(st.text(max_size=12), max_size=6), max_size=12))
def test_running_lines_are_lines_of_their_page(pages: list[list[str]]) -> None:
    dropped = running_lines(pages)
    assert len(dropped) == len(pages)
    assert all(gone <= set(range(len(page))) for page, gone in zip(pages, dropped, strict=True))
