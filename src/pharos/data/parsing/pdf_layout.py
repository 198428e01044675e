"""From the lines of a page to its blocks: paragraphs, list items, table rows, code, headings.

A line goes on the paragraph above it unless something speaks for a break: a wider gap, another
size, an indent, a bullet, or that the first word would have fitted on the line above.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pharos.data.cleaning import Hyphenation
from pharos.data.parsing.pdf_lines import Line

Kind = Literal["text", "item", "code", "row"]

_BULLET = re.compile(r"(?:[•◦▪‣∙●○■□·*–—-]|\(?\d{1,3}[.)]|\(?[a-zA-Z]\))(?:\s+\S|$)")
_ALIGNED = 3.0  # points


@dataclass(slots=True)
class Block:
    """Lines that belong together. `gap` is whether an empty line stood before them."""

    kind: Kind
    lines: list[Line]
    gap: bool

    @property
    def size(self) -> float:
        return self.lines[0].size

    @property
    def bold(self) -> bool:
        return all(line.bold for line in self.lines)


@dataclass(frozen=True, slots=True)
class Typography:
    """What is usual in a document: the size of its text and the distance of its lines."""

    size: float
    leading: float

    @classmethod
    def of(cls, pages: Sequence[Sequence[Line]]) -> "Typography":
        sizes: Counter[float] = Counter()
        leadings: Counter[float] = Counter()
        for lines in pages:
            for line in lines:
                sizes[round(line.size, 1)] += len(line.text)
            for above, below in itertools.pairwise(lines):
                if abs(above.left - below.left) < _ALIGNED and above.bottom > below.bottom:
                    leadings[round(above.bottom - below.bottom, 1)] += len(below.text)
        size = sizes.most_common(1)[0][0] if sizes else 10.0
        near = [(d, n) for d, n in leadings.items() if 0.7 * size < d < 2.5 * size]
        leading = max(near, key=lambda pair: (pair[1], -pair[0]))[0] if near else 1.2 * size
        return cls(size, leading)


def blocks_of(lines: Sequence[Line], usual: Typography, hyphenation: Hyphenation) -> list[Block]:
    """The blocks of one page, from top to bottom as the file draws them."""
    lines = _with_whole_cells(lines, usual, hyphenation)
    rows = _table_rows(lines)
    edges = _right_edges(lines)
    blocks: list[Block] = []
    for index, line in enumerate(lines):
        kind = _kind(line, index in rows)
        above = blocks[-1] if blocks else None
        gap = above is None or _is_gap(above.lines[-1], line, usual)
        if above is not None and above.kind == kind == "row":
            gap = not _aligned(above.lines[-1], line)
        if above is not None and not gap and _goes_on(above, line, kind, edges):
            above.lines.append(line)
        else:
            blocks.append(Block(kind, [line], gap or _is_indented(above, line)))
    return blocks


def block_text(block: Block, hyphenation: Hyphenation) -> str:
    """A block's text: paragraphs flow, rows have their cells parted, code keeps its indents."""
    if block.kind == "code":
        return _code_text(block.lines)
    if block.kind == "row":
        return "\n".join(" | ".join(text for _, text in line.cells) for line in block.lines)
    text = block.lines[0].text
    for above, line in itertools.pairwise(block.lines):
        text = join_lines(text, line.text, hyphenation, hyphenated=above.hyphenated)
    return text + ("-" if block.lines[-1].hyphenated else "")


def join_lines(above: str, below: str, hyphenation: Hyphenation, *, hyphenated: bool) -> str:
    """Two lines of running text as one."""
    if hyphenated:
        return hyphenation.join(above, below)
    if above.endswith("-") and above[-2:-1].isalpha() and below[:1].isalpha():
        return hyphenation.join(above[:-1], below)
    return f"{above} {below}"


def _kind(line: Line, is_row: bool) -> Kind:
    if line.monospace:
        return "code"
    if is_row:
        return "row"
    return "item" if _BULLET.match(line.text) else "text"


def _goes_on(above: Block, line: Line, kind: Kind, edges: dict[int, float]) -> bool:
    """Whether a line that follows without a gap belongs to the block above it."""
    last = above.lines[-1]
    if kind in ("code", "row") or above.kind in ("code", "row"):
        return kind == above.kind
    if kind == "item" or not _same_size(last, line):
        return False
    if last.hyphenated:
        return True
    if above.bold and not line.bold:
        return False
    if _is_indented(above, line) or _is_outdented(above, line):
        return False
    return not _would_have_fitted(last, line, edges)


def _same_size(above: Line, below: Line) -> bool:
    return abs(above.size - below.size) < 0.1 * max(above.size, below.size)


def _is_gap(above: Line, below: Line, usual: Typography) -> bool:
    distance = above.bottom - below.baseline
    leading = usual.leading * max(1.0, min(above.size, below.size) / usual.size)
    return distance > 1.25 * leading or distance < -0.5 * above.size


def _is_indented(above: Block | None, line: Line) -> bool:
    """Whether a line starts further right than the block, other than under a bullet."""
    if above is None:
        return False
    start = above.lines[-1].left
    if line.left > start + 0.6 * line.size:
        return not (above.kind == "item" and len(above.lines) == 1)
    return False


def _is_outdented(above: Block, line: Line) -> bool:
    """Whether a line starts further left than the block, other than below an indented first."""
    step = above.lines[-1].left - line.left
    return step > (3.0 if len(above.lines) == 1 else 0.6) * line.size


def _would_have_fitted(above: Line, below: Line, edges: dict[int, float]) -> bool:
    """Whether the line above ends so early that its break was meant."""
    word = below.text.split(" ", 1)[0]
    word_width = below.width * (len(word) + 1) / max(len(below.text), 1)
    edge = edges.get(_column(above), above.right)
    return above.right + word_width < edge - 2.0 * above.size


def _column(line: Line) -> int:
    """Lines that start within an inch and a half of each other share a column."""
    return round(line.left / 108)


def _right_edges(lines: Sequence[Line]) -> dict[int, float]:
    """How far right the lines of each column reach."""
    edges: dict[int, float] = {}
    for line in lines:
        edges[_column(line)] = max(edges.get(_column(line), 0.0), line.right)
    return edges


def _with_whole_cells(
    lines: Sequence[Line], usual: Typography, hyphenation: Hyphenation
) -> list[Line]:
    """The lines, with those that only go on below the last cell of a line put into that cell."""
    whole: list[Line] = []
    for line in lines:
        above = whole[-1] if whole else None
        if above is None or not _continues_cell(above, line, usual):
            whole.append(replace(line, cells=list(line.cells)))
            continue
        left, text = above.cells[-1]
        text = join_lines(text, line.text, hyphenation, hyphenated=above.hyphenated)
        above.cells[-1] = (left, text)
        above.text = " ".join(text for _, text in above.cells)
        above.right, above.bottom, above.hyphenated = line.right, line.bottom, line.hyphenated
    return whole


def _continues_cell(above: Line, line: Line, usual: Typography) -> bool:
    return (
        len(above.cells) > 1
        and len(line.cells) == 1
        and abs(line.left - above.cells[-1][0]) < _ALIGNED
        and line.left > above.left + line.size
        and line.monospace == above.monospace
        and _same_size(above, line)
        and not _is_gap(above, line, usual)
    )


def _table_rows(lines: Sequence[Line]) -> set[int]:
    """The indexes of lines that are parted by gaps at the same places as a line next to them."""
    rows: set[int] = set()
    for i in range(len(lines) - 1):
        if _aligned(lines[i], lines[i + 1]):
            rows.update((i, i + 1))
    return rows


def _aligned(a: Line, b: Line) -> bool:
    if len(a.cells) < 2 or len(b.cells) < 2:
        return False
    shared = sum(any(abs(x - y) < _ALIGNED for y, _ in b.cells) for x, _ in a.cells)
    return shared >= 2


def _code_text(lines: Sequence[Line]) -> str:
    margin = min(line.left for line in lines)
    widths = [line.width / len(line.text) for line in lines if line.text]
    width = max(sorted(widths)[len(widths) // 2], 1.0)
    indents = (min(round((line.left - margin) / width), 80) for line in lines)
    return "\n".join(
        " " * n + line.text + ("-" if line.hyphenated else "")
        for n, line in zip(indents, lines, strict=True)
    )


def heading_levels(blocks: Sequence[Block], usual: Typography) -> dict[float, int]:
    """Levels of headings by their size, for a document without an outline: larger is further
    out, and bold lines of the text's own size (key 0) are furthest in."""
    sizes = {round(b.size, 1) for b in blocks if is_heading(b, usual) and _is_large(b, usual)}
    levels = {size: level for level, size in enumerate(sorted(sizes, reverse=True)[:5], start=1)}
    return levels | {0.0: len(levels) + 1}


def is_heading(block: Block, usual: Typography) -> bool:
    """Whether a block looks like a heading: short, set off, and large or bold."""
    text = " ".join(line.text for line in block.lines)
    if block.kind not in ("text", "item", "row") or len(block.lines) > 3 or len(text) > 150:
        return False
    if not any(c.isalpha() for c in text) or text.rstrip().endswith((".", ",", ";", ":")):
        return False
    if _is_large(block, usual):
        return True
    return block.bold and block.gap and len(block.lines) == 1


def _is_large(block: Block, usual: Typography) -> bool:
    return block.size > (1.05 if block.bold else 1.12) * usual.size
