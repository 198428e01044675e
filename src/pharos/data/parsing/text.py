"""Plain text, whose lines are kept. Its headings are lines that are underlined, in capitals, or
numbered and written like a title, as in `2.1. Terms and Definitions`."""

import re
from pathlib import PurePath

from pharos.data.cleaning import clean_text, squeeze_blank_lines
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Heading, Parsed, Raw
from pharos.data.parsing.numbering import is_title, numbered_headings

_UNDERLINE = re.compile(r"([=\-~*^#_+])\1{2,}")
_ASCIIDOC = re.compile(r"(={1,5}) (\S.*)")
_CAPITALS = re.compile(r"(?=.*[A-Z]{3})[A-Z0-9][A-Z0-9 .,:;'()/&-]{2,70}[A-Z0-9):]")

_OUTLINED = re.compile(
    r" {0,4}(\d{1,2}(?:\.\d{1,2}){1,3}(?=\.? )|\d{1,2}(?= ))\.? +([A-Z][^.:;!?]{1,70})\.?"
)
"""`1.2. Title`, `1.2 Title` and `1 Title`; what begins like `1. ` is told in `numbering.py`."""
_SET_OFF_LEVEL = 3


def parse_text(raw: Raw) -> Parsed:
    text = squeeze_blank_lines(clean_text(decode(raw.data)))
    headings = text_headings(text)
    has_title = bool(headings) and headings[0].level < _SET_OFF_LEVEL
    title = headings[0].text if has_title else PurePath(raw.name).stem
    return Parsed(text=text, headings=headings, title=title)


def text_headings(text: str) -> list[Heading]:
    """Headings by underline (`=` further out than the rest), `== AsciiDoc ==`, CAPITALS, number.
    Where numbered headings are indented, capitals may be as far."""
    numbered = {line.start: line for line in numbered_headings(text)}
    indents = {line.indent for line in numbered.values()} | {0}
    lines = ["", *text.split("\n"), ""]
    headings = []
    start = 0
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if number := numbered.get(start):
            headings.append(Heading(start=start, level=_SET_OFF_LEVEL, text=number.heading))
        elif not before.strip() and (found := _heading(line, after, indents)) is not None:
            headings.append(Heading(start=start, level=found[0], text=found[1]))
        start += len(line) + 1
    return headings


def _heading(line: str, after: str, indents: set[int]) -> tuple[int, str] | None:
    if not line or len(line) > 120:
        return None
    if match := _OUTLINED.fullmatch(line):
        is_heading = not after.strip() and is_title(match[2])
        return (_SET_OFF_LEVEL + match[1].count("."), line.strip()) if is_heading else None
    words = line.lstrip(" ")
    is_flush = words == line and not line[0].isspace()
    if is_flush and _is_underline(after, line) and not _UNDERLINE.fullmatch(line):
        return (1 if after[0] in "=*#" else 2), line
    if after.strip():
        return None
    if is_flush and (match := _ASCIIDOC.fullmatch(line)):
        return len(match[1]), match[2].rstrip("= ")
    is_set_off = len(line) - len(words) in indents and _CAPITALS.fullmatch(words)
    return (_SET_OFF_LEVEL, words) if is_set_off else None


def _is_underline(line: str, title: str) -> bool:
    return _UNDERLINE.fullmatch(line) is not None and abs(len(line) - len(title)) <= 2
