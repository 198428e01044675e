import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from pharos.cli.rendering import place, position, source_link
from pharos.cli.terminal import dedented, indented, one_line, printable, reflowed

HOSTILE = "\x1b[31m[bold]red[/bold]\x1b]8;;http://evil.example\x07link\x9b2J\u202egpj.exe\r\n"


@given(st.text())
def test_nothing_printable_steers_a_terminal(text: str) -> None:
    kept = printable(text)
    categories = {unicodedata.category(character) for character in kept if character not in "\n\t"}
    assert not categories & {"Cc", "Cs"}
    assert not set(kept) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"])))
def test_ordinary_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_one_line_is_one_line() -> None:
    assert one_line("a\n\n b\tc\x1b[2J") == "a b c[2J"


def test_a_hostile_title_reaches_the_terminal_as_plain_letters() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=200)
    console.print(place("a.md", HOSTILE, (HOSTILE,)))
    shown = stream.getvalue()
    assert "[bold]red[/bold]" in shown
    assert "\x1b[31m" not in shown
    assert "\x1b]8" not in shown
    assert "\u202e" not in shown


def test_the_heading_path_names_nothing_twice() -> None:
    assert place("a.md", "Roles", ("Roles", "Dropping")).plain == "Roles › Dropping"
    assert place("a.md", "", ()).plain == "a.md"


def test_a_link_goes_only_to_a_file_that_is_there(tmp_path) -> None:
    report = tmp_path / "a report.pdf"
    report.touch()
    links = [span.style.link for span in source_link(str(report), 3).spans]
    assert links == [report.as_uri() + "#page=3"]
    assert source_link("https://evil.example/x.pdf", 3).spans == []
    assert source_link("a\0b", None).spans == []


def test_a_page_is_named_where_there_is_one() -> None:
    assert position(3, 10, 25) == "page 3, characters 10–25"
    assert position(None, 10, 25) == "characters 10–25"


@pytest.mark.parametrize("width", [5, 20, 80])
def test_every_line_of_a_quote_stands_behind_its_bar(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    lines = list(indented(Text("the quick brown fox\njumps over it all " * 4), "  │ ", console))
    assert len(lines) > 1
    assert all(line.plain.startswith("  │ ") for line in lines)
    assert all(len(line) <= max(width, 20) for line in lines)


def test_hard_wrapped_text_is_reflowed_and_lists_are_not() -> None:
    wrapped = (
        "It is dropped with the command DROP ROLE, which\n    needs the name of the role.\n\nEnd."
    )
    assert reflowed(wrapped) == wrapped.replace("which\n    needs", "which needs")
    listed = "Three things are needed before a role can be dropped:\n- one\n- two\n- three"
    assert reflowed(listed) == listed


def test_a_quote_loses_the_indentation_of_its_place() -> None:
    assert dedented("one\n      two\n        three") == "one\ntwo\n  three"
