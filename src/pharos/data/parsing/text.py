"""Plain text, whose lines are kept. Underlined lines and lines in capitals are its headings."""

import re

from pharos.data.cleaning import clean_text, squeeze_blank_lines
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Heading, Parsed, Raw

_UNDERLINE = re.compile(r"([=\-~*^#_+])\1{2,}")
_ASCIIDOC = re.compile(r"(={1,5}) (\S.*)")
_CAPITALS = re.compile(r"(?=.*[A-Z]{3})[A-Z0-9][A-Z0-9 .,:;'()/&-]{2,70}[A-Z0-9):]")


def parse_text(raw: Raw) -> Parsed:
    text = squeeze_blank_lines(clean_text(decode(raw.data)))
    return Parsed(text=text, headings=text_headings(text))


def text_headings(text: str) -> list[Heading]:
    """Headings by underline (`=` further out than the rest), `== AsciiDoc ==`, or CAPITALS."""
    lines = ["", *text.split("\n"), ""]
    headings = []
    start = 0
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if not before.strip() and (found := _heading(line, after)) is not None:
            headings.append(Heading(start=start, level=found[0], text=found[1]))
        start += len(line) + 1
    return headings


def _heading(line: str, after: str) -> tuple[int, str] | None:
    if not line or line[0].isspace() or len(line) > 120:
        return None
    if _is_underline(after, line) and not _UNDERLINE.fullmatch(line):
        return (1 if after[0] in "=*#" else 2), line
    if after.strip():
        return None
    if match := _ASCIIDOC.fullmatch(line):
        return len(match[1]), match[2].rstrip("= ")
    return (3, line) if _CAPITALS.fullmatch(line) else None


def _is_underline(line: str, title: str) -> bool:
    return _UNDERLINE.fullmatch(line) is not None and abs(len(line) - len(title)) <= 2
