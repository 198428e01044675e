"""The lines of a PDF page with where and how they are set, by way of pdfium.

pdfium tells characters and their boxes; which of them make a line, a cell or a column gap is
settled here. Sizes and positions are in points, `bottom` and `top` counted upwards.
"""

import ctypes
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_RUN = re.compile("[^\r\n\ufffe\x02]+([\ufffe\x02]?)")  # pdfium marks a hyphen at a line's end
_WORD = re.compile("[^\\s\ufffe\x02]+")
_FIXED_PITCH = 1
_MONOSPACE = re.compile(
    r"mono|courier|consol|typewriter|menlo|fixed|(?:cm|lm|ec|sl|t1x|tx|pl)tt", re.IGNORECASE
)
_BOLD = re.compile(r"bold|black|heavy|demi|cmbx|sfbx|-bx", re.IGNORECASE)
_CELL_GAP = 0.9  # times the font size: wider than most blanks of a justified line
_BLANK_GAP = 0.17
_FONT_NAME_BYTES = 128


@dataclass(slots=True)
class Line:
    """One line of a page. `cells` has more than one entry where wide gaps part the line;
    `hyphenated` lines end within a word, without the hyphen. `baseline` is where the characters
    stand (their boxes' lower edge) and is `bottom` too, until more lines are merged into this."""

    text: str
    left: float
    baseline: float
    bottom: float
    right: float
    top: float
    size: float
    monospace: bool
    bold: bool
    hyphenated: bool
    cells: list[tuple[float, str]]

    @property
    def width(self) -> float:
        return self.right - self.left


def page_lines(textpage: Any, *, restore_blanks: bool) -> list[Line]:
    """The lines of a `pypdfium2.PdfTextPage` in the order in which the file draws them.

    restore_blanks: part words also where nothing but a gap parts them, at the cost of looking
        at every character (see `num_missing_blanks`).
    """
    lines: list[Line] = []
    for line in _Reader(textpage, restore_blanks=restore_blanks).lines():
        if lines and _is_continuation(lines[-1], line):
            _extend(lines[-1], line)
        else:
            lines.append(line)
    return lines


def num_missing_blanks(textpage: Any) -> int:
    """How many blanks pdfium overlooked on a page: some programs (groff) draw them as kerning."""
    reader = _Reader(textpage, restore_blanks=False)
    return sum(len(reader.parts(start, end)) - 1 for start, end in reader.words())


class _Reader:
    """Reads characters by index; pdfium's functions are called bare, for there are many calls."""

    def __init__(self, textpage: Any, *, restore_blanks: bool) -> None:
        import pypdfium2.raw as pdfium

        self._get_box = pdfium.FPDFText_GetLooseCharBox
        self._get_size = pdfium.FPDFText_GetFontSize
        self._get_matrix = pdfium.FPDFText_GetMatrix
        self._get_font = pdfium.FPDFText_GetFontInfo
        self._page = textpage.raw
        self._restore_blanks = restore_blanks
        self._rect = pdfium.FS_RECTF()
        self._rect_pointer = ctypes.byref(self._rect)
        self._matrix = pdfium.FS_MATRIX()
        self._name = ctypes.create_string_buffer(_FONT_NAME_BYTES)
        count = textpage.count_chars()
        self._text = textpage.get_text_range() if count > 0 else ""
        if len(self._text) != count:  # the text left something out: ask for each character
            get = pdfium.FPDFText_GetUnicode
            self._text = "".join(_character(get(self._page, i)) for i in range(count))

    def lines(self) -> Iterator[Line]:
        for run in _RUN.finditer(self._text):
            if words := list(self.words(run.start(), run.end())):
                yield self._line(words, hyphenated=bool(run[1]))

    def words(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Where the words within a stretch of the page's text start and end."""
        for match in _WORD.finditer(self._text, start, len(self._text) if end is None else end):
            if self._restore_blanks:
                yield from self.parts(*match.span())
            else:
                yield match.span()

    def parts(self, start: int, end: int) -> list[tuple[int, int]]:
        """A word, parted where a gap as wide as a blank shows."""
        parts = [(start, end)]
        limit = _BLANK_GAP * self._style(start)[0]
        right = self._box(start)[2]
        for i in range(start + 1, end):
            left, _, next_right, _ = self._box(i)
            if left - right > limit:
                parts[-1:] = [(parts[-1][0], i), (i, end)]
            right = next_right
        return parts

    def _line(self, words: list[tuple[int, int]], *, hyphenated: bool) -> Line:
        first, last = words[0][0], words[-1][1] - 1
        left, bottom, _, top = self._box(first)
        styles = [self._style(i) for i in (first, words[len(words) // 2][0], last)]
        size = sorted(style[0] for style in styles)[len(styles) // 2]
        cells = self._cells(words, size)
        return Line(
            text=" ".join(text for _, text in cells),
            left=left,
            baseline=bottom,
            bottom=bottom,
            right=self._box(last)[2],
            top=top,
            size=size,
            monospace=all(style[1] for style in styles),
            bold=all(style[2] for style in styles),
            hyphenated=hyphenated,
            cells=cells,
        )

    def _cells(self, words: list[tuple[int, int]], size: float) -> list[tuple[float, str]]:
        """The words of a line, joined up to where a gap parts two cells."""
        cells: list[tuple[float, str]] = []
        end = 0.0
        for start, stop in words:
            left = self._box(start)[0]
            word = self._text[start:stop]
            if cells and left - end < _CELL_GAP * size:
                cells[-1] = (cells[-1][0], f"{cells[-1][1]} {word}")
            else:
                cells.append((left, word))
            end = self._box(stop - 1)[2]
        return cells

    def _box(self, index: int) -> tuple[float, float, float, float]:
        self._get_box(self._page, index, self._rect_pointer)
        rect = self._rect
        return rect.left, rect.bottom, rect.right, rect.top

    def _style(self, index: int) -> tuple[float, bool, bool]:
        """A character's size as it is shown, whether it is of fixed width, and whether bold."""
        self._get_matrix(self._page, index, self._matrix)
        size = self._get_size(self._page, index) * math.hypot(self._matrix.c, self._matrix.d)
        flags = ctypes.c_int()
        self._get_font(self._page, index, self._name, _FONT_NAME_BYTES, flags)
        fixed, bold = _weight(self._name.value)
        return size or 1.0, fixed or bool(flags.value & _FIXED_PITCH), bold


@functools.lru_cache(maxsize=1024)
def _weight(font: bytes) -> tuple[bool, bool]:
    name = font.decode("utf-8", errors="replace")
    return _MONOSPACE.search(name) is not None, _BOLD.search(name) is not None


def _character(code: int) -> str:
    return chr(code) if 0 < code < 0x110000 else " "


def _is_continuation(before: Line, after: Line) -> bool:
    """Whether pdfium broke one visible line in two, as it does at a raised exponent."""
    overlap = min(before.top, after.top) - max(before.bottom, after.bottom)
    smaller = min(before.top - before.bottom, after.top - after.bottom)
    return (
        not before.hyphenated
        and overlap > 0.5 * smaller
        and after.left >= before.right - 0.3 * before.size
    )


def _extend(line: Line, after: Line) -> None:
    gap = after.left - line.right
    if gap > _CELL_GAP * line.size:
        line.cells.extend(after.cells)
    else:
        blank = " " if gap > 0.15 * line.size else ""
        left, text = line.cells[-1]
        line.cells[-1] = (left, text + blank + after.cells[0][1])
        line.cells.extend(after.cells[1:])
    line.text = " ".join(text for _, text in line.cells)
    line.right, line.hyphenated = max(line.right, after.right), after.hyphenated
    line.bottom, line.top = min(line.bottom, after.bottom), max(line.top, after.top)
    line.size = max(line.size, after.size)
    line.monospace = line.monospace and after.monospace
    line.bold = line.bold and after.bold
