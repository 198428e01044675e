"""What is done to text before it has offsets: afterwards not a character of it may move.

`clean_text` keeps the lines of a text, `clean_line` makes one line of it. `running_lines` and
`Hyphenation` mend what a page layout did to running text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_NEWLINE = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_TERMINAL = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]|[^\n]\x08")  # colours, overstruck letters
_BLANK_LINES = re.compile(r"\n{3,}")


def _table() -> dict[int, str]:
    """What each unwanted character becomes."""
    replacements = dict.fromkeys((0xA0, 0x1680, 0x202F, 0x205F, 0x3000), " ")
    replacements |= dict.fromkeys(range(0x2000, 0x200B), " ")
    replacements |= {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl"}
    replacements |= dict.fromkeys((0x2010, 0x2011, 0x2212), "-")  # nobody types these
    replacements |= {0xFB05: "st", 0xFB06: "st", 0xF0B7: "•", 0xF0A7: "•"}
    replacements |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
    invisible = {0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF, 0xFFF9, 0xFFFA, 0xFFFB}
    invisible.update(range(0x202A, 0x202F), range(0x2060, 0x2070), range(0xE0000, 0xE0080))
    noncharacters = {*range(0xFDD0, 0xFDF0)}
    noncharacters.update(
        plane + low for plane in range(0, 0x110000, 0x10000) for low in (0xFFFE, 0xFFFF)
    )
    controls = {*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A}
    return dict.fromkeys(invisible | noncharacters | controls, "") | replacements


_TABLE = _table()


def clean_text(text: str) -> str:
    """Lines end in a newline alone and without trailing blanks; NFC; no control characters but
    newline and tab; no invisible characters (soft hyphens, zero-width and direction marks);
    every blank is a plain one; typographic ligatures are letters, and hyphens
    and minus signs are the one on the keyboard. Idempotent."""
    if text.isascii() and text.isprintable():
        return text.rstrip()  # most cells and lines
    text = _NEWLINE.sub("\n", text)
    while (undone := _TERMINAL.sub("", text)) != text:
        text = undone
    text = unicodedata.normalize("NFC", text.translate(_TABLE))
    return "\n".join(line.rstrip() for line in text.split("\n"))


def clean_line(text: str) -> str:
    """As `clean_text`, in one line with single blanks."""
    return " ".join(clean_text(text).split())


def squeeze_blank_lines(text: str) -> str:
    """At most one empty line in a row, none at either end."""
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


class Hyphenation:
    """Joins the halves of a word that a line break divided.

    Whether the hyphen belongs to the word is settled by how the document spells it elsewhere;
    failing that, a hyphen between two runs of small letters is taken to be the typesetter's.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: set[str] = set()
        for text in texts:
            self._words.update(_WORD.findall(text.lower()))

    def join(self, before: str, after: str) -> str:
        """`before` and `after` as one text; `before` ends where the hyphen stood, without it."""
        head, tail = _LAST_PART.search(before), _FIRST_PART.match(after)
        if head is None or tail is None:
            return f"{before}-{after}"
        left, right = head.group(), tail.group()
        if f"{left}-{right}".lower() in self._words:
            return f"{before}-{after}"
        if f"{left}{right}".lower() in self._words or (left[-1].islower() and right.islower()):
            return f"{before}{after}"
        return f"{before}-{after}"


_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_LAST_PART = re.compile(r"[^\W\d_]+$")
_FIRST_PART = re.compile(r"[^\W\d_]+")

_NUMBER = re.compile(r"\d{1,4}")
_PAGE_NUMBER_ALONE = re.compile(
    r"[-–—|\s]*(?:page\s*)?(?:\d{1,4}|[ivxl]{1,7})(?:\s*(?:of|/)\s*\d{1,4})?[-–—|\s]*",
    re.IGNORECASE,
)
_WINDOW = 8
_FARTHEST_NUMBER = 300


def running_lines(pages: Sequence[Sequence[str]]) -> list[set[int]]:
    """For each page the indexes of its running headers and footers.

    Working inwards from the top and from the bottom, a line goes if it is a page number, if it
    carries the page number that its neighbours lead one to expect, or if it comes back on pages
    nearby. Further in than the outermost line it must come back on a good share of all pages: a
    section heading may well open three pages of a long manual. Pages that have most of their text
    in common (forms) keep all of it.
    """
    dropped: list[set[int]] = [set() for _ in pages]
    for from_top in (True, False):
        for depth in range(3):
            edges = [_edge(page, gone, from_top) for page, gone in zip(pages, dropped, strict=True)]
            running = _running(pages, edges, outermost=depth == 0)
            for gone, edge, runs in zip(dropped, edges, running, strict=True):
                if edge is not None and runs:
                    gone.add(edge)
    return [set() for _ in pages] if _holds_most(pages, dropped) else dropped


def _holds_most(pages: Sequence[Sequence[str]], dropped: Sequence[set[int]]) -> bool:
    lost = sum(len(page[i]) for page, gone in zip(pages, dropped, strict=True) for i in gone)
    return lost > 0.5 * sum(len(line) for page in pages for line in page)


def _edge(page: Sequence[str], gone: set[int], from_top: bool) -> int | None:
    """The outermost line of a page that has not been dropped yet."""
    order = range(len(page)) if from_top else range(len(page) - 1, -1, -1)
    return next((i for i in order if i not in gone and page[i].strip()), None)


def _running(
    pages: Sequence[Sequence[str]], edges: Sequence[int | None], *, outermost: bool
) -> list[bool]:
    lines = ["" if e is None else " ".join(p[e].split()) for p, e in zip(pages, edges, strict=True)]
    counts = Counter(line for line in lines if line)
    offset = _page_number_offset(lines)
    verdicts = []
    for i, line in enumerate(lines):
        repeated = lines[max(0, i - _WINDOW) : i + _WINDOW + 1].count(line) >= 3
        if outermost:
            repeated = repeated or (offset is not None and offset in _offsets(i, line))
        else:
            repeated = repeated and counts[line] >= 0.4 * len(pages)
        alone = len(pages) > 1 and _PAGE_NUMBER_ALONE.fullmatch(line) is not None
        verdicts.append(bool(line) and (alone or repeated))
    return verdicts


def _offsets(index: int, line: str) -> set[int]:
    """How far the numbers in a line are from the index of its page, unless too far for one."""
    offsets = {int(number) - index for number in _NUMBER.findall(line)}
    return {offset for offset in offsets if abs(offset) <= _FARTHEST_NUMBER}


def _page_number_offset(lines: Sequence[str]) -> int | None:
    """The offset between printed and physical page numbers, where a third of the pages agree."""
    offsets = Counter(offset for i, line in enumerate(lines) for offset in _offsets(i, line))
    if not offsets:
        return None
    offset, support = offsets.most_common(1)[0]
    return offset if support >= max(3, len(lines) // 3) else None
