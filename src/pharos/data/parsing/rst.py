"""reStructuredText: the source's text, less the marks that only a renderer needs.

A line of punctuation below a title, or above and below it, makes a heading; the order in which
the styles first appear gives their levels (docutils' rule).
"""

import re

from pharos.data.cleaning import clean_text, squeeze_blank_lines
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Heading, Parsed, Raw

_ADORNMENT = re.compile(r"([!-/:-@[-`{-~])\1+")
_ROLE = re.compile(r":[a-zA-Z][\w:.+-]{0,40}:`([^`\n]{1,500})`")
_LINK = re.compile(r"`([^`<>\n]{1,300}?)\s*<([^`<>\n]{1,500})>`__?")
_TARGET = re.compile(r"(?P<text>[^<>]+?)\s*<[^<>]+>")
_DROPPED = re.compile(
    r"\s*\.\. (?:_[^:]+:\s*$|index::|contents::|toctree::|meta::|highlight::|currentmodule::)"
)
_OPTION = re.compile(r"\s+:[\w-]+:")


def parse_rst(raw: Raw) -> Parsed:
    return rst_parsed(decode(raw.data))


def rst_parsed(source: str) -> Parsed:
    lines = _without_directives(clean_text(source).split("\n"))
    kept: list[str] = []
    found: list[tuple[int, str, str]] = []  # index of the line in `kept`, style, title
    position = 0
    while position < len(lines):
        title = _title_at(lines, position)
        if title is None:
            kept.append(_without_marks(lines[position]))
            position += 1
            continue
        style, text, used = title
        found.append((len(kept), style, _without_marks(text)))
        kept.append(found[-1][2])
        position += used
    return _located(kept, found)


def _located(kept: list[str], found: list[tuple[int, str, str]]) -> Parsed:
    """The text of the lines kept, and the headings at their offsets in it."""
    marked = {index: (style, title) for index, style, title in found}
    styles: list[str] = []
    headings: list[Heading] = []
    parts: list[str] = []
    length = 0
    for index, line in enumerate(kept):
        if not line and (not parts or parts[-1] == ""):
            continue  # at most one empty line in a row
        if index in marked:
            style, title = marked[index]
            if style not in styles:
                styles.append(style)
            headings.append(Heading(start=length, level=styles.index(style) + 1, text=title))
        parts.append(line)
        length += len(line) + 1
    return Parsed(text=squeeze_blank_lines("\n".join(parts)), headings=headings)


def _title_at(lines: list[str], i: int) -> tuple[str, str, int] | None:
    """Style, text and number of lines of the title that starts at line `i`, if one does."""
    if i and lines[i - 1].strip():
        return None
    window = [*lines[i : i + 3], "", "", ""]
    first, second, third = window[:3]
    if (
        _is_adornment(first)
        and second.strip()
        and third == first
        and len(first) >= len(second.strip())
    ):
        return first[0] * 2, second.strip(), 3
    underlined = first and not first[0].isspace() and not _is_adornment(first)
    if underlined and _is_adornment(second) and len(second) >= min(len(first), 4):
        return second[0], first, 2
    return None


def _is_adornment(line: str) -> bool:
    return len(line) >= 2 and _ADORNMENT.fullmatch(line) is not None


def _without_directives(lines: list[str]) -> list[str]:
    """Drops directives and comments that say nothing to a reader, with their options."""
    kept: list[str] = []
    indent: int | None = None  # of the directive whose body is being dropped
    for line in lines:
        if indent is not None and line and _indent(line) > indent:
            continue
        if _DROPPED.match(line):
            indent = _indent(line)
            continue
        if line:
            indent = None
        kept.append(line)
    return kept


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _without_marks(line: str) -> str:
    """The line with roles and links reduced to what a reader sees."""
    if "`" not in line:
        return line
    line = _ROLE.sub(lambda m: _visible(m[1]), line)
    return _LINK.sub(r"\1 (\2)", line).replace("``", "`")


def _visible(content: str) -> str:
    if match := _TARGET.fullmatch(content):
        return match["text"]
    return content.removeprefix("!").removeprefix("~")
