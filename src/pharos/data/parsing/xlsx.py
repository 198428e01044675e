"""XLSX: each sheet a section, each row a line; numbers as the sheet shows them where it matters.

Formulas count with the value that was saved with them. Rows are read as a stream.
"""

import datetime
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from lxml import etree

from pharos.data.parsing.archives import Archive
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.ooxml import part_of_kind, properties, relationships
from pharos.data.parsing.tabular import add_table
from pharos.data.parsing.xml import attribute, child, discard, parse_xml, stream_xml

_WORKBOOK = "xl/workbook.xml"
_COLUMN = re.compile(r"([A-Z]{1,3})[0-9]*")
_DATE_FORMATS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
_PERCENT_FORMATS = frozenset({9, 10})
_LITERALS = re.compile(
    r'"[^"]*"|\[[^\]]*\]|\\.|[_*].'
)  # parts of a number format that mean themselves
_MAX_COLUMN = 16_384


def parse_xlsx(raw: Raw) -> Parsed:
    with Archive(raw.data, raw.limits) as archive:
        title, metadata = properties(archive)
        book = _Book.read(archive)
        draft = Draft(raw.limits)
        for name, part in _sheets(archive):
            rows = _rows(archive.read(part), part, book)
            _add_sheet(draft, name, rows)
    return draft.finish(title=title or PurePath(raw.name).stem, metadata=metadata)


def _add_sheet(draft: Draft, name: str, rows: Iterator[list[str]]) -> None:
    """A heading only for a sheet that holds something."""
    first = next(rows, None)
    if first is not None:
        draft.add_heading(name, 1)
        add_table(draft, itertools.chain([first], rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Book:
    """What cells refer to: strings, and how the style of that index shows a number."""

    strings: list[str]
    styles: list[str]  # "date", "percent" or ""
    epoch: datetime.datetime

    @classmethod
    def read(cls, archive: Archive) -> "_Book":
        properties_ = next(
            parse_xml(archive.read(_WORKBOOK), _WORKBOOK).iter("{*}workbookPr"), None
        )
        from_1904 = attribute(properties_, "date1904") in ("1", "true")
        return cls(
            strings=_shared_strings(archive),
            styles=_styles(archive),
            epoch=datetime.datetime(1904, 1, 1) if from_1904 else datetime.datetime(1899, 12, 30),
        )

    def number(self, text: str, style: str) -> str:
        """A stored number as the sheet shows it: dates in ISO form, shares in per cent."""
        try:
            value = float(text)
        except ValueError:
            return text
        kind = self.styles[int(style)] if style.isdigit() and int(style) < len(self.styles) else ""
        if kind == "date" and 0 <= value < 2_958_466:  # the year 9999
            moment = self.epoch + datetime.timedelta(seconds=round(value * 86_400))
            if value < 1:
                return moment.time().isoformat()
            return moment.date().isoformat() if value == int(value) else moment.isoformat(" ")
        return f"{value * 100:.10g}%" if kind == "percent" else f"{value:.15g}"


def _sheets(archive: Archive) -> list[tuple[str, str]]:
    """Names and parts of the sheets in the order of their tabs."""
    targets = {r.id: r.target for r in relationships(archive, _WORKBOOK) if r.kind == "worksheet"}
    root = parse_xml(archive.read(_WORKBOOK), _WORKBOOK)
    sheets = [(attribute(s, "name") or "", attribute(s, "id") or "") for s in root.iter("{*}sheet")]
    return [(name, targets[i]) for name, i in sheets if i in targets and targets[i] in archive]


def _shared_strings(archive: Archive) -> list[str]:
    part = part_of_kind(archive, _WORKBOOK, "sharedStrings")
    strings: list[str] = []
    if part is None:
        return strings
    for _, _, element in stream_xml(archive.read(part), part, "si"):
        strings.append(_text(element))
        discard(element)
    return strings


def _text(element: etree._Element) -> str:
    """The text of a string; its runs without their phonetic guides."""
    guides = {id(t) for guide in element.iter("{*}rPh") for t in guide.iter("{*}t")}
    return "".join(t.text or "" for t in element.iter("{*}t") if id(t) not in guides)


def _styles(archive: Archive) -> list[str]:
    part = part_of_kind(archive, _WORKBOOK, "styles")
    if part is None:
        return []
    root = parse_xml(archive.read(part), part)
    codes = {
        attribute(f, "numFmtId"): _LITERALS.sub("", attribute(f, "formatCode") or "").lower()
        for f in root.iter("{*}numFmt")
    }
    formats = child(root, "cellXfs")
    found = [] if formats is None else [attribute(f, "numFmtId") or "0" for f in formats]
    return [_style(number, codes.get(number)) for number in found]


def _style(number: str, code: str | None) -> str:
    if code is None:
        builtin = int(number) if number.isdigit() else 0
        return (
            "date" if builtin in _DATE_FORMATS else "percent" if builtin in _PERCENT_FORMATS else ""
        )
    if "%" in code:
        return "percent"
    return "date" if any(letter in code for letter in "ymdhs") and "general" not in code else ""


def _rows(data: bytes, part: str, book: _Book) -> Iterator[list[str]]:
    """The rows that hold something, from the sheet's first used column on."""
    origin = 0
    cells: list[str] = []
    for _, name, element in stream_xml(data, part, "dimension", "c", "row"):
        if name == "dimension":
            origin = _column(attribute(element, "ref") or "", default=0)
        elif name == "c":
            column = _column(element.get("r", ""), default=origin + len(cells)) - origin
            cells.extend([""] * (column - len(cells)))
            cells.append(_value(element, book))
        else:
            if any(cell.strip() for cell in cells):
                yield cells
            cells = []
            discard(element)


def _column(reference: str, *, default: int) -> int:
    """The index of the column in `C3` or `C3:D9`."""
    match = _COLUMN.match(reference)
    if match is None:
        return default
    index = 0
    for letter in match[1]:
        index = index * 26 + ord(letter) - ord("A") + 1
    return min(index, _MAX_COLUMN) - 1


def _value(cell: etree._Element, book: _Book) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return _text(cell)
    value = child(cell, "v")
    text = "" if value is None or value.text is None else value.text
    if kind == "s":
        return book.strings[int(text)] if text.isdigit() and int(text) < len(book.strings) else ""
    if kind == "b":
        return {"1": "TRUE", "0": "FALSE"}.get(text, text)
    return book.number(text, cell.get("s", "")) if kind == "n" and text else text
