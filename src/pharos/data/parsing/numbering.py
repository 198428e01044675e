"""Which numbered paragraphs of a plain text are headings: `1. Definitions.` on a line by itself,
and `6. Trademarks. This License does not …`, which runs into its text.

Paragraphs that count on from one another are one numbering, and a numbering is headings throughout
or not at all: else the first would head what belongs to those that follow. Most of it must be
written like titles, and the rest must stand on lines by themselves. Headings that run into their
text look much like the items of a list, so they must be at least three, and count from 1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_NUMBERED = re.compile(r"^( {0,4})(\d{1,2})\. +(\S.*)$", re.MULTILINE)
_TITLE = r"[A-Z][^.:;!?]{1,70}"
_ALONE = re.compile(rf"{_TITLE}\.?")
_RUN_IN = re.compile(rf"({_TITLE}\.)(?: .*)?")
_INITIAL = re.compile(r"\b[A-Z]{1,2}\.$")
_LONGEST_HEADING = 80
_FEWEST_RUN_IN = 3
_MOST_UNTITLED = 0.25

Kind = Literal["title", "line", "run-in", "item"]
_CONTINUED: dict[Kind, tuple[Kind, ...]] = {
    "title": ("title", "line", "run-in", "item"),
    "line": ("line", "title", "run-in", "item"),
    "run-in": ("run-in", "title", "line", "item"),
    "item": ("item", "line", "run-in", "title"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbered:
    """A line that begins with a number. It is a title or another line by itself, or it begins with
    a title (run-in), or none of these (item); `heading` is what of it would be a heading."""

    start: int
    indent: int
    number: int
    kind: Kind
    heading: str
    is_paragraph: bool


def numbered_headings(text: str) -> list[Numbered]:
    """The numbered lines that are headings, or begin with one, in no particular order."""
    numberings = _numberings(text)
    return [line for numbering in numberings if _are_headings(numbering) for line in numbering]


def is_title(text: str) -> bool:
    """Whether every longer word is capitalised, as in a title and not in a list's item."""
    return all(word[0].isupper() for word in text.split() if len(word) > 3 and word[0].isalpha())


def _numberings(text: str) -> list[list[Numbered]]:
    """Each line is put behind the last one that it counts on from, rather one of its own kind. A
    line in the middle of a paragraph continues a list only."""
    numberings: list[list[Numbered]] = []
    latest: dict[tuple[int, int, Kind], list[Numbered]] = {}
    for line in _numbered(text):
        kinds = _CONTINUED[line.kind] if line.is_paragraph else ("item",)
        keys = ((line.indent, line.number - 1, kind) for kind in kinds)
        numbering = next((latest.pop(key) for key in keys if key in latest), None)
        if numbering is None:
            numberings.append(numbering := [])
        numbering.append(line)
        latest[line.indent, line.number, line.kind] = numbering
    return numberings


def _numbered(text: str) -> Iterator[Numbered]:
    for match in _NUMBERED.finditer(text):
        start, end = match.span()
        is_paragraph = not text[text.rfind("\n", 0, max(start - 1, 0)) + 1 : start].strip()
        is_alone = text[end : end + 2] in ("\n\n", "\n", "")
        kind, title = _kind(match[3], is_alone) if is_paragraph else ("item", "")
        yield Numbered(
            start=start,
            indent=len(match[1]),
            number=int(match[2]),
            kind=kind,
            heading=f"{match[2]}. {title}",
            is_paragraph=is_paragraph,
        )


def _kind(text: str, is_alone: bool) -> tuple[Kind, str]:
    if is_alone and _ALONE.fullmatch(text) and is_title(text):
        return "title", text
    run_in = _RUN_IN.fullmatch(text)
    if run_in and not is_alone and is_title(run_in[1]) and not _is_name(run_in[1]):
        return "run-in", run_in[1]
    is_line = is_alone and text[0].isupper() and len(text) <= _LONGEST_HEADING
    return ("line", text) if is_line else ("item", "")


def _is_name(title: str) -> bool:
    """Whether it looks like the author in a list of references: `Doe J.`, `Doe, Jane.`"""
    is_listing = " and " in title or " or " in title
    return _INITIAL.search(title) is not None or ("," in title and not is_listing)


def _are_headings(numbering: list[Numbered]) -> bool:
    kinds = [line.kind for line in numbering]
    if "item" in kinds or kinds.count("line") > _MOST_UNTITLED * len(kinds):
        return False
    if "run-in" not in kinds:
        return True
    counts_from_1 = numbering[0].number == 1 and len(numbering) >= _FEWEST_RUN_IN
    return counts_from_1 and any(_num_capitals(line.heading) > 1 for line in numbering)


def _num_capitals(heading: str) -> int:
    return sum(word[0].isupper() for word in heading.split())
