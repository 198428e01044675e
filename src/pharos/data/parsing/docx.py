"""DOCX: paragraphs with their headings, numbering as a reader sees it, tables and footnotes.

Deleted text, comments, headers and footers are no part of the text. The document is read as a
stream, so its size in memory is that of its largest paragraph.
"""

from dataclasses import dataclass, field

from lxml import etree

from pharos.data.parsing.archives import Archive
from pharos.data.parsing.docx_styles import Numbering, Style, read_numbering, read_styles
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.ooxml import part_of_kind, properties
from pharos.data.parsing.tabular import row_text
from pharos.data.parsing.xml import attribute, child, discard, local_name, parse_xml, stream_xml

_DOCUMENT = "word/document.xml"
_STREAMED = ("p", "tbl", "tr", "tc", "Fallback")
_SKIPPED = frozenset({"Fallback", "moveFrom", "del", "rPr", "pPr"})
_CHARACTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def parse_docx(raw: Raw) -> Parsed:
    with Archive(raw.data, raw.limits) as archive:
        title, metadata = properties(archive)
        writer = _Writer(
            Draft(raw.limits),
            read_styles(archive, part_of_kind(archive, _DOCUMENT, "styles")),
            read_numbering(archive, part_of_kind(archive, _DOCUMENT, "numbering")),
        )
        writer.write(archive.read(_DOCUMENT))
        _add_notes(writer.draft, archive)
    return writer.draft.finish(title=title, metadata=metadata)


@dataclass(slots=True)
class _Table:
    rows: int = 0
    cells: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Writer:
    draft: Draft
    styles: dict[str, Style]
    numbering: Numbering
    tables: list[_Table] = field(default_factory=list)
    in_list: bool = False

    def write(self, data: bytes) -> None:
        fallback = 0
        for event, name, element in stream_xml(data, _DOCUMENT, *_STREAMED, starts=True):
            if name == "Fallback":  # the same again for older programs
                fallback += 1 if event == "start" else -1
            elif not fallback:
                self._begin(name) if event == "start" else self._end(name, element)

    def _begin(self, name: str) -> None:
        if name == "tbl":
            self.tables.append(_Table())
        elif name == "tc" and self.tables:
            self.tables[-1].lines = []

    def _end(self, name: str, element: etree._Element) -> None:
        if name == "p":
            self._paragraph(element)
            discard(element)
        elif name == "tc" and self.tables:
            self.tables[-1].cells.append("\n".join(self.tables[-1].lines))
            discard(element)
        elif name == "tr" and self.tables:
            self._row()
            discard(element)
        elif name == "tbl":
            self._table()
            discard(element)

    def _paragraph(self, element: etree._Element) -> None:
        text = paragraph_text(element)
        style = self._style(element)
        label = self.numbering.label(*style.numbering) if style.numbering and text.strip() else ""
        if self.tables:
            self.tables[-1].lines.append(label + text)
        elif style.level is not None:
            self.draft.add_heading(label + text, style.level)
            self.in_list = False
        elif text.strip():
            indent = "  " * style.numbering[1] if label and style.numbering else ""
            separator = "\n" if label and self.in_list else "\n\n"
            self.draft.add(indent + label + text, separator=separator)
            self.in_list = bool(label)

    def _style(self, element: etree._Element) -> Style:
        """The paragraph's style with what the paragraph itself says on top."""
        settings = child(element, "pPr")
        style = self.styles.get(attribute(child(settings, "pStyle"), "val") or "", Style())
        return style.overridden_by(settings)

    def _row(self) -> None:
        table = self.tables[-1]
        cells, table.cells = table.cells, []
        filled = [cell for cell in cells if cell.strip()]
        text = filled[0] if len(filled) == 1 else row_text(cells)
        if len(self.tables) > 1:  # a table within a cell
            self.tables[-2].lines.append(text)
        elif self.draft.add(text, separator="\n" if table.rows else "\n\n") is not None:
            table.rows += 1

    def _table(self) -> None:
        if self.tables:
            self.tables.pop()
        self.in_list = False


def paragraph_text(element: etree._Element) -> str:
    """The text of a paragraph, without what is deleted, moved away or inside a text box."""
    parts: list[str] = []
    stack = [iter(element)]
    while stack:
        for node in stack[-1]:
            name = local_name(node)
            if name == "t":
                parts.append(node.text or "")
            elif name in _CHARACTERS:
                parts.append(_CHARACTERS[name])
            elif name in ("footnoteReference", "endnoteReference"):
                parts.append(f"[{attribute(node, 'id')}]")
            elif name not in _SKIPPED and name != "txbxContent":
                stack.append(iter(node))
                break
        else:
            stack.pop()
    return "".join(parts)


def _add_notes(draft: Draft, archive: Archive) -> None:
    """Footnotes and endnotes, each after the mark that stands in the text."""
    for kind in ("footnote", "endnote"):
        path = part_of_kind(archive, _DOCUMENT, kind + "s")
        if path is None:
            continue
        separator = "\n\n"
        for note in parse_xml(archive.read(path), path).iterchildren("{*}" + kind):
            text = " ".join(paragraph_text(p) for p in note.iter("{*}p")).strip()
            if text and attribute(note, "type") is None:
                draft.add(f"[{attribute(note, 'id')}] {text}", separator=separator)
                separator = "\n"
