"""What holds for a document of any format."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core import Document, DocumentError
from pharos.data.parsing import SUFFIXES, ParseLimits, parse, parse_bytes

FORMATS = [
    "pdf",
    "html",
    "docx",
    "pptx",
    "xlsx",
    "csv",
    "epub",
    "md",
    "rst",
    "txt",
    "1.gz",
    "eml",
    "py",
]
TEXT_NAMES = [
    "a.html",
    "a.md",
    "a.rst",
    "a.txt",
    "a.csv",
    "a.1",
    "a.py",
    "a.eml",
    "a.mbox",
    "README",
    "METADATA",
]


def assert_adds_up(document: Document) -> None:
    text = document.text
    assert unicodedata.is_normalized("NFC", text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in text)
    position = 0
    for section in document.sections:
        assert section.start == position < section.end
        position = section.end
    assert position == len(text)
    position = 0
    for page in document.pages:
        assert position <= page.start < page.end <= len(text)
        position = page.end
    assert [p.number for p in document.pages] == sorted({p.number for p in document.pages})
    assert document.title and "\n" not in document.title


@pytest.mark.parametrize("key", FORMATS)
def test_every_format_is_read_and_adds_up(
    key: str, corpus: dict[str, Path], facts: dict[str, str]
) -> None:
    document = parse(corpus[key], source="here")
    assert_adds_up(document)
    assert facts[key] in document.text
    assert document.source == "here"


@pytest.mark.parametrize("key", FORMATS)
def test_parsing_twice_gives_the_same(key: str, corpus: dict[str, Path]) -> None:
    assert parse(corpus[key], source="s") == parse(corpus[key], source="s")


@pytest.mark.parametrize("key", FORMATS)
def test_bytes_are_read_as_the_file_is(key: str, corpus: dict[str, Path]) -> None:
    path = corpus[key]
    assert parse_bytes(path.read_bytes(), name=path.name, source="s") == parse(path, source="s")


@pytest.mark.parametrize("key", ["pdf", "html", "docx", "pptx", "xlsx", "epub", "1.gz", "eml"])
def test_standard_input_is_recognised_by_its_bytes(key: str, corpus: dict[str, Path]) -> None:
    named = parse(corpus[key], source="s")
    assert parse_bytes(corpus[key].read_bytes(), name="-", source="s").format == named.format


@pytest.mark.parametrize("name", TEXT_NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_bytes_come_they_add_up_or_are_refused(name: str, data: st.DataObject) -> None:
    fragments = st.sampled_from(
        [
            "# a",
            "\n",
            "\n\n",
            "<p>",
            "</div>",
            "<table><td>",
            "<pre>",
            "===",
            "---",
            "```",
            ".SH x\n",
            ".TP\n",
            "\\fB",
            ".. a::\n",
            "From a 2024\n",
            "Subject: x\n",
            "Content-Type: multipart/mixed\n",
            "|",
            ",",
            '"',
            "def f():",
            "é",
            "\u0301",
            "\x85",
            "- ",
            "1. ",
            "<h2>T</h2>",
            "<li>",
            ".if n \\{",
            "T{",
            ".TS\n",
        ]
    )
    text = "".join(data.draw(st.lists(fragments | st.text(max_size=8), max_size=30)))
    try:
        document = parse_bytes(text.encode("utf-8", "replace"), name=name, source="s")
    except DocumentError as error:
        assert str(error)
        return
    assert_adds_up(document)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert_adds_up(parse_bytes(data, name="unknown", source="s"))
    except DocumentError as error:
        assert str(error)


@pytest.mark.parametrize("key", ["pdf", "docx", "pptx", "xlsx", "epub"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_file_is_read_or_refused(
    key: str, corpus: dict[str, Path], data: st.DataObject
) -> None:
    content = bytearray(corpus[key].read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(content) // 2, len(content)))
    try:
        assert_adds_up(parse_bytes(bytes(content[:cut]), name=corpus[key].name, source="s"))
    except DocumentError as error:
        assert str(error)


def test_the_known_suffixes_name_every_format_of_the_corpus(corpus: dict[str, Path]) -> None:
    assert {path.suffix for path in corpus.values()} <= SUFFIXES


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_bytes is 0; it must be at least 1"):
        ParseLimits(max_bytes=0)
