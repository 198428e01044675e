"""Formats whose source is the text: plain text, Markdown, reStructuredText, code, tables."""

import pydoc_data.topics
from pathlib import Path

import pytest

from pharos.core import Document
from pharos.data.parsing import parse_bytes


def read(text: str | bytes, name: str) -> Document:
    data = text.encode() if isinstance(text, str) else text
    return parse_bytes(data, name=name, source="s")


def paths(text: str, name: str) -> list[tuple[str, ...]]:
    return [section.headings for section in read(text, name).sections]


# --- characters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_the_encoding_of_plain_text_is_found(encoding: str) -> None:
    text = "“Naïve” café – 5 €, and so on."
    assert read(text.encode(encoding), "a.txt").text == text


def test_a_few_broken_bytes_do_not_spoil_utf8() -> None:
    text = "Größe, Länge, Höhe, Übermaß, größer, länger, höher".encode()
    assert read(text + b" \xff end", "a.txt").text.endswith("höher \ufffd end")


def test_latin1_bytes_that_windows_lacks_are_read() -> None:
    assert read(b"caf\xe9 \x81 bar", "a.txt").text == "café  bar"


# --- plain text --------------------------------------------------------------------------------


def test_underlined_and_capital_lines_head_sections() -> None:
    text = "Guide\n=====\n\nIntro.\n\nSetup\n-----\n\nText.\n\nTERMS OF USE\n\nMore.\n"
    assert paths(text, "a.txt") == [
        ("Guide",),
        ("Guide", "Setup"),
        ("Guide", "Setup", "TERMS OF USE"),
    ]


def test_numbered_titles_head_sections_and_list_items_do_not() -> None:
    text = (
        "Preamble.\n\n1. Terms and Definitions\n\nText.\n\n1.1 Scope\n\n1. open the lid\n2. wait\n"
    )
    assert paths(text, "a.txt") == [
        (),
        ("1. Terms and Definitions",),
        ("1. Terms and Definitions", "1.1 Scope"),
    ]


LICENCE_HEADINGS = [
    "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
    "1. Definitions.",
    "2. Grant of Copyright License.",
    "3. Grant of Patent License.",
    "4. Redistribution.",
    "5. Submission of Contributions.",
    "6. Trademarks.",
    "7. Disclaimer of Warranty.",
    "8. Limitation of Liability.",
    "9. Accepting Warranty or Additional Liability.",
    "END OF TERMS AND CONDITIONS",
]


def test_headings_that_run_into_their_text_head_the_sections_of_a_licence() -> None:
    licence = (Path(__file__).parents[3] / "LICENSE").read_text()
    document = read(licence, "LICENSE")
    assert [section.headings for section in document.sections] == [
        (),
        *((heading,) for heading in LICENCE_HEADINGS),
    ]
    (trademarks,) = (s for s in document.sections if s.headings == ("6. Trademarks.",))
    text = document.text[trademarks.start : trademarks.end]
    assert text.startswith("   6. Trademarks. This License does not grant permission")
    assert text.rstrip().endswith("reproducing the content of the NOTICE file.")


@pytest.mark.parametrize(
    "text",
    [
        "1. Open the lid. Then wait.\n\n2. Press the button. It glows.\n\n3. Close it. Done.\n",
        "1. Stop. Look around.\n\n2. Wait. Count to ten.\n\n3. Go. Do not run.\n",
        "1. Open the Lid. Then wait.\n2. Press the Button. Wait.\n3. Close the Lid. Done.\n",
        "1. Doe J. On light. 1901.\n\n2. Roe JB. On sound. 1902.\n\n3. Poe E. On fog. 1903.\n",
        "1. Doe, Jane. Light. 1901.\n\n2. Roe, Jim. Sound. 1902.\n\n3. Poe, Ed. Fog. 1903.\n",
        "1. Grant of License. Text.\n\n2. Disclaimer of Warranty. Text.\n",
        "4. Grant of License. A.\n\n5. Terms of Use. B.\n\n6. Limits of Use. C.\n",
        "1. Grant of License. A.\n\n2. Terms of Use. B.\n\n3. the rest. C.\n",
        "1. Grant of License. A.\n\n  2. Terms of Use. B.\n\n3. Limits of Use. C.\n",
    ],
)
def test_ordinary_numbered_lists_head_nothing(text: str) -> None:
    assert paths(text, "a.txt") == [()]


def test_a_first_title_whose_successors_are_none_heads_nothing() -> None:
    text = "1. Preparation\n\nWash it.\n\n2. Peel what is left, and cut it.\n\n3. Cook it.\n"
    assert paths(text, "a.txt") == [()]


def test_one_heading_among_many_need_not_be_written_like_a_title() -> None:
    titles = ["Source Code.", "U.S. GOVERNMENT END USERS.", "Basic Permissions.", "Patents."]
    headings = [f"{number}. {title}" for number, title in enumerate(titles)]
    text = "\n\n".join(f"  {heading}\n\n  Text." for heading in headings)
    assert paths(text, "a.txt") == [(heading,) for heading in headings]


def test_a_list_within_a_numbered_section_leaves_the_headings_alone() -> None:
    text = (
        "1. Introduction\n\n1. wash\n2. peel\n\n3. cook\n\n"
        "2. Results\n\nIt is well known since\n3. May 1901 that fog is wet.\n\n1. eat it\n\n"
        "3. Outlook\n\n4 apples.\n"
    )
    assert paths(text, "a.txt") == [("1. Introduction",), ("2. Results",), ("3. Outlook",)]


def test_a_table_of_contents_does_not_unmake_the_headings() -> None:
    contents = "1. Introduction\n2. Results, at length\n3. Outlook\n\n"
    body = "1. Introduction\n\nText.\n\n2. Results\n\nText.\n\n3. Outlook\n\nText.\n"
    assert paths(contents + body, "a.txt")[1:] == [
        ("1. Introduction",),
        ("2. Results",),
        ("3. Outlook",),
    ]


def test_a_file_without_suffix_is_read_as_what_it_looks_like() -> None:
    assert read("# Title\n\nSee [x](https://example.org).\n", "README").format == "markdown"
    assert read("Title\n=====\n\n.. note:: x\n", "README").format == "rst"
    assert read("Permission is granted.\n", "LICENSE").format == "text"
    assert read("#!/bin/sh\necho\n", "run").format == "code"
    assert read("<!DOCTYPE html><p>x</p>", "index").format == "html"
    assert read("Jan 1 host daemon: up\n", "syslog.1").format == "text"


# --- Markdown ----------------------------------------------------------------------------------


def test_markdown_headings_are_found_outside_code_only() -> None:
    text = "# A `b` **c**\n\n```\n# no\n```\n\n## [D](http://e) ##\n\nF\n---\n\n    # no\n\n#no\n"
    assert paths(text, "a.md") == [("A b c",), ("A b c", "D"), ("A b c", "F")]


def test_markdown_loses_pictures_badges_comments_and_tags() -> None:
    text = (
        "[![CI](https://x/y.svg)](https://x) ![A chart](c.png)\n<!-- secret\nnote -->\n"
        '<p align="center">\n  <img src="a.png"/>\n  <b>Bold</b> claim\n</p>\n\n`<br>` stays\n'
    )
    assert read(text, "a.md").text == "A chart\n\nBold claim\n\n`<br>` stays"


def test_markdown_links_and_tables_stay_as_they_are() -> None:
    text = "| a | b |\n|---|---|\n| 1 | [x](http://y) |"
    assert read(text, "a.md").text == text


def test_markdown_front_matter_becomes_metadata() -> None:
    document = read('---\ntitle: "The title"\nauthor: Ada\ntags: [x]\n---\n\nText.\n', "a.md")
    assert (document.title, document.text) == ("The title", "Text.")
    assert document.metadata == {"author": "Ada"}


def test_a_list_of_links_into_the_page_is_a_table_of_contents() -> None:
    assert read("- [One](#one)\n  - [Two](#two)\n\nText.\n", "a.md").text == "Text."


# --- reStructuredText --------------------------------------------------------------------------


def test_rst_levels_follow_the_order_of_the_styles() -> None:
    text = "===\nTop\n===\n\nAye\n===\n\nx\n\nBee\n---\n\ny\n\nCee\n===\n\nz\n"
    assert paths(text, "a.rst") == [("Top",), ("Top", "Aye"), ("Top", "Aye", "Bee"), ("Top", "Cee")]


def test_rst_roles_links_and_silent_directives_are_mended() -> None:
    text = (
        ".. _label:\n.. index:: a, b\n   single: c\n\nUse :func:`~os.path.join` and "
        ":ref:`that <label>`, see `docs <https://x.org>`_ or ``ls``.\n\n.. note:: Mind this.\n"
    )
    assert read(text, "a.rst").text == (
        "Use os.path.join and that, see docs (https://x.org) or `ls`.\n\n.. note:: Mind this."
    )


@pytest.mark.parametrize("topic", ["assert", "try", "with", "lambda", "numbers"])
def test_the_language_reference_in_the_standard_library_has_headings(topic: str) -> None:
    source = pydoc_data.topics.topics[topic]
    document = read(source, f"{topic}.rst")
    assert all(section.headings for section in document.sections)
    assert document.title == source.strip().split("\n")[0]


# --- code, tables, metadata --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "heading"),
    [
        ("a.py", "async def f(x):  # why\n    pass", "async def f(x)"),
        ("a.rs", "pub fn main() {\n}", "pub fn main()"),
        ("a.go", "func (s *S) Run() error {\n}", "func (s *S) Run() error"),
        ("a.ts", "export default class App {\n}", "export default class App"),
        ("a.c", "static int add(int a, int b)\n{\n}", "static int add(int a, int b)"),
        ("a.sh", "build() {\n}", "build()"),
        ("a.sql", "CREATE TABLE t (\n  a int\n);", "CREATE TABLE t"),
        ("a.toml", "[tool.ruff]\nx = 1", "[tool.ruff]"),
    ],
)
def test_definitions_head_sections_of_code(name: str, code: str, heading: str) -> None:
    document = read(f"\n{code}\n", name)
    assert document.sections[0].headings == (heading,)
    assert document.text == code


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_table_is_found(delimiter: str) -> None:
    rows = [["name", "size"], ["a", '"1\n2"'], ["b", ""]]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert read(text, "a.csv").text == "name | size\na | 1 2\nb"


def test_a_table_with_an_unclosed_quote_is_read_as_text() -> None:
    text = 'a,b\n"' + "x,y\n" * 50_000
    assert read(text, "a.csv").text.startswith('a,b\n"x,y')


def test_package_metadata_is_fields_and_a_description() -> None:
    text = (
        "Metadata-Version: 2.1\nName: demo\nVersion: 1.2\nSummary: A demo\nClassifier: Noise\n"
        "Description-Content-Type: text/markdown\n\n# Demo\n\nText.\n"
    )
    document = read(text, "METADATA")
    assert document.title == "demo 1.2"
    assert document.text == "demo 1.2\nSummary: A demo\n\n# Demo\n\nText."
    assert document.sections[-1].headings == ("demo 1.2", "Demo")
