"""From a stream of HTML tags to blocks of text, without ever building the tree.

The walker keeps its own stack of open elements, so nesting costs memory in proportion to its
depth and nothing recurses. Each block remembers whether it stood in `<main>`, in `<article>` or
elsewhere: which of them are the document is decided when all are known.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pharos.core import DocumentError
from pharos.data.parsing.limits import ParseLimits
from pharos.data.parsing.names import names
from pharos.data.parsing.tabular import row_text

Kind = Literal["heading", "text", "code", "item", "term", "definition", "row"]
ELSEWHERE, ARTICLE, MAIN = range(3)

_NEVER = names(
    "script style template noscript iframe object embed svg canvas audio video head "
    "annotation annotation-xml select datalist textarea button input dialog"
)
_FURNITURE = names("nav footer form menu")
_FURNITURE_ROLES = names(
    "navigation banner contentinfo search complementary menu menubar toolbar dialog"
)
_FURNITURE_CLASSES = names(
    "toc contents table-of-contents tableofcontents toctree-wrapper local-toc navheader navfooter "
    "navbar navigation breadcrumb breadcrumbs sidebar sphinxsidebar related headerlink permalink "
    "header-anchor anchor-link headeranchor editsection mw-editsection skip-link sr-only "
    "visually-hidden screen-reader-text pagination pager prev-next-area prev-next-bottom "
    "linenos linenodiv line-numbers copybtn edit-page edit-this-page cookie-banner noprint "
    "site-header site-footer page-footer footer footer-wrapper searchbox indexterm"
)
_KEPT_ASIDES = names("footnote-list footnote footnotes topic admonition")
_BOXES = names("note notice tip hint important caution warning danger admonition attention")
_BLOCKS = names(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main nav ol p pre section "
    "summary table caption tbody td tfoot th thead tr ul"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_MARKS = re.compile(r"\s*[¶§#🔗]\s*$")
_EXPONENT = re.compile(r"[-−+]?\d{1,4}|[-−+]?[a-z]")


_MAX_SPANS = 40  # columns in which a cell may reach down at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A run of text that stands by itself. `tight` blocks follow without an empty line."""

    kind: Kind
    text: str
    place: int
    level: int = 0
    tight: bool = False


@dataclass(slots=True)
class _Element:
    skipped: bool
    place: int
    boxed: bool


@dataclass(slots=True)
class _List:
    ordered: bool
    number: int


@dataclass(slots=True)
class _Table:
    """`layout` is set once a cell turns out to hold more than a cell does: then the cells are
    read as ordinary blocks."""

    rows: int = 0
    tall: bool = False
    layout: bool = False
    cells: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    spans: dict[int, tuple[int, str]] = field(default_factory=dict)
    span: int = 1
    in_cell: bool = False


class Walker:
    """An lxml parser target. Feed it a document, then read `blocks`, `title` and `meta`."""

    def __init__(self, limits: ParseLimits, *, keep_furniture: bool = False) -> None:
        self.blocks: list[Block] = []
        self.title = ""
        self.meta: dict[str, str] = {}
        self._limits = limits
        self._keep_furniture = keep_furniture
        self._length = 0
        self._stack: list[_Element] = []
        self._skipping = 0
        self._boxes = 0  # open notes and warnings, whose headings head no section
        self._place = ELSEWHERE
        self._buffer: list[str] = []
        self._lists: list[_List] = []
        self._tables: list[_Table] = []
        self._pre = 0
        self._marker: str | None = None
        self._tight = False
        self._title_open = False
        self._sup: int | None = None

    # --- what lxml calls -------------------------------------------------------------------

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "title":
            self._title_open = not self.title
        elif tag == "meta":
            self._read_meta(attributes)
        classes = _classes(attributes.get("class", ""), attributes.get("id", ""))
        skipped = not self._skipping and self._is_skipped(tag, classes, attributes)
        boxed = not self._skipping and not _BOXES.isdisjoint(classes)
        self._stack.append(_Element(skipped, self._place, boxed))
        self._skipping += skipped
        if self._skipping:
            return
        self._boxes += boxed
        if tag == "main" or attributes.get("role") == "main":
            self._enter(MAIN)
        elif tag == "article":
            self._enter(ARTICLE)
        self._open(tag, attributes)

    def end(self, tag: str) -> None:
        if tag == "title":
            self._title_open = False
        element = self._stack.pop()
        if self._skipping:
            self._skipping -= element.skipped
            return
        self._close(tag)
        self._boxes -= element.boxed
        if element.place != self._place:
            self._flush()
            self._place = element.place

    def data(self, text: str) -> None:
        if self._title_open:
            self.title += text
        elif not self._skipping:
            self._length += len(text)
            if self._length > 4 * self._limits.max_characters:
                limit = self._limits.max_characters
                raise DocumentError(f"holds far more than {limit:,} characters (max_characters)")
            self._buffer.append(text)

    def comment(self, text: str) -> None:
        """Comments are no part of the text."""

    def pi(self, target: str, data: str | None = None) -> None:
        """Neither are processing instructions."""

    def close(self) -> "Walker":
        self._flush()
        return self

    # --- what is left out ------------------------------------------------------------------

    def _is_skipped(self, tag: str, classes: frozenset[str], attributes: Mapping[str, str]) -> bool:
        if tag in _NEVER:
            return True
        if self._keep_furniture or tag in ("html", "body", "main"):
            return False
        if tag == "aside":
            return classes.isdisjoint(_KEPT_ASIDES) or not classes.isdisjoint(_FURNITURE_CLASSES)
        if tag in _FURNITURE or (tag == "header" and self._place == ELSEWHERE):
            return True
        return not classes.isdisjoint(_FURNITURE_CLASSES) or _is_hidden(attributes)

    def _read_meta(self, attributes: Mapping[str, str]) -> None:
        name = (attributes.get("name") or attributes.get("property") or "").lower()
        if name and (content := attributes.get("content", "").strip()):
            self.meta.setdefault(name, content)

    # --- structure -------------------------------------------------------------------------

    def _enter(self, place: int) -> None:
        self._flush()
        self._place = max(self._place, place)

    def _open(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "br":
            self._buffer.append("\n" if self._pre or self._in_cell() else "\x00")
            return
        if tag == "sup":
            self._sup = len(self._buffer)
        elif tag == "a" and self._sup is not None:
            self._sup = None  # a footnote mark
        if tag not in _BLOCKS:
            return
        if tag in _HEADINGS or tag in ("pre", "table", "ul", "ol", "dl"):
            self._spread_cell()
        self._flush()
        if tag in ("ul", "ol"):
            self._lists.append(_List(tag == "ol", _number(attributes.get("start"), default=1)))
        elif tag == "li":
            self._begin_item()
        elif tag == "pre":
            self._pre += 1
        elif tag == "table":
            self._tables.append(_Table())
        elif tag in ("td", "th"):
            self._begin_cell(attributes)

    def _close(self, tag: str) -> None:
        if tag == "sup":
            self._end_exponent()
        if tag not in _BLOCKS:
            return
        if tag in _HEADINGS:
            self._flush("text" if self._boxes else "heading", level=_HEADINGS[tag])
        elif tag == "pre":
            self._flush("code")
            self._pre = max(0, self._pre - 1)
        elif tag in ("dt", "dd"):
            self._flush("term" if tag == "dt" else "definition")
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag == "table":
            self._end_table()
        else:
            self._flush()
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        elif tag == "li":
            self._marker = None
        self._tight = tag == "dt"

    def _begin_item(self) -> None:
        if not self._lists:
            self._marker = "- "
            return
        current = self._lists[-1]
        self._marker = f"{current.number}. " if current.ordered else "- "
        current.number += 1

    def _end_exponent(self) -> None:
        """`10<sup>6</sup>` is not 106."""
        if self._sup is None:
            return
        content = "".join(self._buffer[self._sup :])
        base = "".join(self._buffer[: self._sup])[-1:]
        if (base.isalnum() or base == ")") and _EXPONENT.fullmatch(content):
            self._buffer.insert(self._sup, "^")
        self._sup = None

    # --- tables ----------------------------------------------------------------------------

    def _in_cell(self) -> bool:
        return bool(self._tables) and self._tables[-1].in_cell and not self._tables[-1].layout

    def _begin_cell(self, attributes: Mapping[str, str]) -> None:
        if not self._tables or self._tables[-1].layout:
            return
        table = self._tables[-1]
        table.in_cell = True
        table.lines = []
        table.span = min(_number(attributes.get("rowspan"), default=1), 1000)
        self._fill_spans(table)

    def _fill_spans(self, table: _Table) -> None:
        """Repeats the cells that reach down from rows above into the next columns."""
        while (column := len(table.cells)) in table.spans:
            left, text = table.spans[column]
            table.cells.append(text)
            if left > 1:
                table.spans[column] = (left - 1, text)
            else:
                del table.spans[column]

    def _end_cell(self) -> None:
        self._flush()
        if not self._in_cell():
            return
        table = self._tables[-1]
        text = "\n".join(table.lines)
        if table.span > 1 and len(table.spans) < _MAX_SPANS:
            table.spans[len(table.cells)] = (table.span - 1, text)
        table.cells.append(text)
        table.in_cell = False

    def _end_row(self) -> None:
        self._flush()
        if not self._tables or self._tables[-1].layout:
            return
        table = self._tables[-1]
        self._fill_spans(table)
        cells, table.cells = table.cells, []
        single = sum(1 for cell in cells if cell.strip()) == 1
        text = "\n".join(c for c in cells if c.strip()) if single else row_text(cells)
        if text.strip():
            tall = "\n" in text  # set apart, or nobody sees where one row ends
            self._emit("row", text, tight=table.rows > 0 and not tall and not table.tall)
            table.rows, table.tall = table.rows + 1, tall

    def _end_table(self) -> None:
        self._end_row()
        if self._tables:
            self._tables.pop()

    def _spread_cell(self) -> None:
        """What is coming does not fit into a cell: this table is there for the layout."""
        if not self._in_cell():
            return
        table = self._tables[-1]
        self._flush()
        table.layout = True
        for text in [*table.cells, *table.lines]:
            if text.strip():
                self._emit("text", text)
        table.cells, table.lines = [], []

    # --- text ------------------------------------------------------------------------------

    def _flush(self, kind: Kind = "text", *, level: int = 0) -> None:
        """Ends the run of text collected so far."""
        self._sup = None
        if not self._buffer:
            return
        raw = "".join(self._buffer)
        self._buffer.clear()
        text = raw.strip("\n").rstrip() if self._pre else _flowed(raw)
        if kind == "heading":
            text = _MARKS.sub("", text.replace("\n", " "))
        if not text.strip():
            return
        if self._in_cell() and kind != "heading":
            self._tables[-1].lines.append(text)
        elif self._pre:
            self._emit("code", text)
        elif self._marker is not None and kind == "text":
            indent = "  " * max(0, len(self._lists) - 1)
            self._emit("item", f"{indent}{self._marker}{text}", tight=True)
            self._marker = None
        else:
            self._emit(kind, text, level=level, tight=self._tight and kind != "heading")
            self._tight = False

    def _emit(self, kind: Kind, text: str, *, level: int = 0, tight: bool = False) -> None:
        after_same = bool(self.blocks) and self.blocks[-1].kind in (kind, "term")
        tight = tight and (kind != "item" or after_same)
        self.blocks.append(Block(kind=kind, text=text, place=self._place, level=level, tight=tight))


@functools.lru_cache(maxsize=4096)
def _classes(class_: str, id_: str) -> frozenset[str]:
    return names(f"{class_} {id_}".lower())


def _is_hidden(attributes: Mapping[str, str]) -> bool:
    """Whether an element is not shown, or has a role other than to be read."""
    return (
        attributes.get("role") in _FURNITURE_ROLES
        or "hidden" in attributes
        or "display:none" in attributes.get("style", "").replace(" ", "")
    )


def _flowed(raw: str) -> str:
    """Text whose blanks mean nothing; `<br>` came as NUL and ends a line."""
    lines = (" ".join(line.split()) for line in raw.split("\x00"))
    return "\n".join(line for line in lines if line)


def _number(value: str | None, *, default: int) -> int:
    text = (value or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else default
