"""From what a parser finds to a text with sections and pages that fit it exactly.

Two kinds of parser return the same `Parsed`. One keeps its source's text and only points at the
headings in it (Markdown, plain text, code). The other writes the text anew, block by block, into
a `Draft` (HTML, PDF, office formats, man pages, mail).
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pharos.core import DocumentError, Page, Section
from pharos.data.cleaning import clean_line, clean_text
from pharos.data.parsing.limits import ParseLimits

_LONGEST_HEADING = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """A file as it was read: what a parser is given."""

    data: bytes
    name: str
    limits: ParseLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A heading whose line starts at `start`; a smaller `level` is further out."""

    start: int
    level: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """What a parser returns: clean text, and what is known about it."""

    text: str
    headings: Sequence[Heading] = ()
    pages: tuple[Page, ...] = ()
    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Draft:
    """Collects cleaned blocks of text, and where headings and pages begin in them."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[Heading] = []
        self._pages: list[Page] = []
        self._page: int | None = None

    def add(self, text: str, *, separator: str = "\n\n") -> int | None:
        """Append a block after `separator`; returns where it starts, or None if it is blank."""
        text = clean_text(text).strip("\n")
        if not text or text.isspace():
            return None
        if self._parts:
            if not separator and not _joins_cleanly(self._parts[-1], text):
                separator = " "
            self._append(separator)
        start = self._length
        self._append(text)
        self._extend_page(start)
        return start

    def add_line(self, text: str) -> int | None:
        """Append one line right below the block before it."""
        return self.add(clean_line(text), separator="\n")

    def add_heading(self, text: str, level: int) -> None:
        """Append a line that is the heading of what follows."""
        text = clean_line(text)
        start = self.add(text)
        if start is not None:
            self.mark_heading(text, level, start)

    def mark_heading(self, text: str, level: int, start: int) -> None:
        """Let a section begin at `start`, where its heading was added already or never is."""
        self._headings.append(Heading(start=start, level=level, text=clean_line(text)))

    def embed(self, parsed: Parsed, *, deeper: int = 0) -> None:
        """Append a text that was parsed by itself, its headings `deeper` by that many levels."""
        start = self.add(parsed.text)
        if start is None:
            return
        for heading in parsed.headings:
            self.mark_heading(heading.text, heading.level + deeper, start + heading.start)

    def begin_page(self, number: int) -> None:
        """What is added from now on stands on page `number`."""
        self._page = number

    def finish(self, *, title: str = "", metadata: Mapping[str, str] | None = None) -> Parsed:
        return Parsed(
            text="".join(self._parts),
            headings=self._headings,
            pages=tuple(self._pages),
            title=title,
            metadata=metadata or {},
        )

    def _append(self, part: str) -> None:
        self._parts.append(part)
        self._length += len(part)
        check_length(self._length, self._limits)

    def _extend_page(self, start: int) -> None:
        if self._page is None:
            return
        if self._pages and self._pages[-1].number == self._page:
            start = self._pages.pop().start
        self._pages.append(Page(start=start, end=self._length, number=self._page))


def check_length(length: int, limits: ParseLimits) -> None:
    """Raises DocumentError for a text longer than allowed."""
    if length > limits.max_characters:
        raise DocumentError(
            f"holds more than {limits.max_characters:,} characters of text (max_characters); "
            "split it into smaller files"
        )


def sections_of(headings: Sequence[Heading], length: int) -> tuple[Section, ...]:
    """Sections that cover `[0, length)`: one from each heading to the next, and what precedes."""
    path: list[Heading] = []
    start, sections = 0, []
    for heading in sorted(headings, key=lambda h: h.start):
        if heading.start > start:
            sections.append(_section(start, heading.start, path))
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        start = heading.start
    if start < length:
        sections.append(_section(start, length, path))
    return tuple(sections)


def _section(start: int, end: int, path: Sequence[Heading]) -> Section:
    return Section(start=start, end=end, headings=tuple(_short(h.text) for h in path if h.text))


def _short(heading: str) -> str:
    return heading if len(heading) <= _LONGEST_HEADING else heading[: _LONGEST_HEADING - 1] + "…"


def _joins_cleanly(before: str, after: str) -> bool:
    return unicodedata.is_normalized("NFC", before[-16:] + after[:16])
