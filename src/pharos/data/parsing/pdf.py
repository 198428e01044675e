"""PDF: the text of every page as paragraphs, under the headings of the document's outline.

pdfium reads the file; `pdf_lines` and `pdf_layout` turn its characters into lines and blocks.
Without an outline the headings are guessed from size and weight. There is no OCR.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any

from pharos.core import DocumentError
from pharos.data.cleaning import Hyphenation, clean_line, running_lines
from pharos.data.parsing.draft import Draft, Parsed, Raw, check_length
from pharos.data.parsing.limits import ParseLimits
from pharos.data.parsing.pdf_layout import (
    Block,
    Typography,
    block_text,
    blocks_of,
    heading_levels,
    is_heading,
)
from pharos.data.parsing.pdf_lines import Line, num_missing_blanks, page_lines

_MAX_OUTLINE = 50_000
_BLANKS_SAMPLE = 10_000  # characters
_MISSING_SHARE = 0.002
_LEADER = re.compile(
    r"(?:[.·…]\s?){4,}\s*(?:\d{1,4}|[ivxl]{1,7})$"
)  # a line of a table of contents
_CONTINUED = re.compile(r"\(continue[sd] (?:on next|from previous) page\)")
_FILE_NAME = re.compile(r"\.(?:docx?|tex|dvi|indd|qxd|pdf|ps|rtf|odt)$", re.IGNORECASE)
_NO_TITLE = frozenset({"", "untitled", "(anonymous)", "title", "document", "unknown"})
_DATE = re.compile(r"D:(\d{4})(\d{2})(\d{2})")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the outline: where it points to on its page, if it says."""

    title: str
    level: int
    y: float | None


def parse_pdf(raw: Raw) -> Parsed:
    document = _open(raw.data)
    try:
        pages = _read_pages(document, raw.limits)
        pictures = [
            i + 1 for i, lines in enumerate(pages) if not lines and _is_picture(document[i])
        ]
        if not any(pages):
            raise DocumentError(_no_text(len(pictures)))
        outline = _outline(document)
        title, metadata = _metadata(document)
    finally:
        document.close()
    if pictures:
        metadata["pages_without_text"] = ", ".join(map(str, pictures))
    pages = _without_boilerplate(pages)
    usual = Typography.of(pages)
    draft = _write(pages, outline, usual, raw.limits)
    title = title or _title(pages, usual) or PurePath(raw.name).stem
    return draft.finish(title=title, metadata=metadata)


def _open(data: bytes) -> Any:
    import pypdfium2  # 50 ms that only PDF files need

    try:
        document = pypdfium2.PdfDocument(data)
        if len(document) == 0:
            raise DocumentError("is damaged: a PDF file without pages")
        return document
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentError("is encrypted: it opens only with a password") from error
        if "security" in str(error).lower():
            raise DocumentError("is encrypted in a way that is not supported") from error
        raise DocumentError(f"is damaged or truncated: {error}") from error


def _read_pages(document: Any, limits: ParseLimits) -> list[list[Line]]:
    import pypdfium2

    pages: list[list[Line]] = []
    total = sampled = missing = 0
    for index in range(len(document)):
        try:
            page = document[index]
            textpage = page.get_textpage()
        except pypdfium2.PdfiumError as error:
            raise DocumentError(f"is damaged: page {index + 1} cannot be read: {error}") from error
        try:
            if sampled < _BLANKS_SAMPLE:
                sampled += textpage.count_chars()
                missing += num_missing_blanks(textpage)
            lines = page_lines(textpage, restore_blanks=missing > _MISSING_SHARE * sampled)
        finally:
            textpage.close()
            page.close()
        total += sum(len(line.text) for line in lines)
        check_length(total, limits)
        pages.append(lines)
    return pages


def _without_boilerplate(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The pages less running headers and footers, and less the table of contents."""
    dropped = running_lines([[line.text for line in page] for page in pages])
    return [
        [line for i, line in enumerate(page) if i not in gone and not _is_boilerplate(line.text)]
        for page, gone in zip(pages, dropped, strict=True)
    ]


def _is_boilerplate(line: str) -> bool:
    return _LEADER.search(line) is not None or _CONTINUED.fullmatch(line) is not None


def _is_picture(page: Any) -> bool:
    import pypdfium2.raw

    objects = page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])
    return next(iter(objects), None) is not None


def _no_text(pictures: int) -> str:
    if pictures == 0:
        return "empty: no text"
    pages = "page is an image" if pictures == 1 else "pages are images"
    return f"no text layer: {pictures} {pages}; OCR is not done"


def _title(pages: Sequence[Sequence[Line]], usual: Typography) -> str:
    """What stands largest on the first page, if it is larger than any heading would be."""
    lines = next((page for page in pages if page), [])[:30]
    largest = max((line.size for line in lines), default=0.0)
    if largest < 1.4 * usual.size:
        return ""
    run: list[Line] = []
    for line in lines:
        if line.size > 0.95 * largest and (not run or run[-1].bottom - line.bottom < 1.5 * largest):
            run.append(line)
        elif run:
            break
    title = " ".join(line.text for line in run)
    return title if len(title) <= 200 else ""


def _outline(document: Any) -> dict[int, list[_Entry]]:
    """The entries of the outline by the index of the page they point to."""
    entries: dict[int, list[_Entry]] = {}
    for bookmark in islice(document.get_toc(), _MAX_OUTLINE):
        destination = bookmark.get_dest()
        page = destination.get_index() if destination is not None else None
        title = clean_line(bookmark.get_title())
        if page is None or not title:
            continue
        _, view = destination.get_view()
        y = float(view[1]) if len(view) == 3 else float(view[0]) if len(view) == 1 else None
        entries.setdefault(page, []).append(_Entry(title, bookmark.level + 1, y))
    return entries


def _metadata(document: Any) -> tuple[str, dict[str, str]]:
    found = document.get_metadata_dict()
    title = clean_line(found.get("Title", "")).removeprefix("Microsoft Word - ")
    if title.lower() in _NO_TITLE or _FILE_NAME.search(title):
        title = ""
    metadata = {"author": found.get("Author", "")}
    if match := _DATE.match(found.get("CreationDate", "")):
        metadata["date"] = "-".join(match.groups())
    return title, {key: value for key, value in metadata.items() if value.strip()}


def _write(
    pages: Sequence[Sequence[Line]],
    outline: dict[int, list[_Entry]],
    usual: Typography,
    limits: ParseLimits,
) -> Draft:
    hyphenation = Hyphenation(line.text for page in pages for line in page)
    blocks = [blocks_of(lines, usual, hyphenation) for lines in pages]
    levels = heading_levels([b for page in blocks for b in page], usual) if not outline else {}
    writer = _Writer(Draft(limits), usual, hyphenation, levels)
    for index, page in enumerate(blocks):
        writer.draft.begin_page(index + 1)
        writer.write_page(page, outline.get(index, []))
    return writer.draft


@dataclass(slots=True)
class _Writer:
    draft: Draft
    usual: Typography
    hyphenation: Hyphenation
    levels: dict[float, int]
    unfinished: bool = False  # the last paragraph stops in mid-sentence

    def write_page(self, blocks: Sequence[Block], entries: Sequence[_Entry]) -> None:
        places = _places(blocks, entries)
        before: Block | None = None
        for index, block in enumerate(blocks):
            text = block_text(block, self.hyphenation)
            start = self.draft.add(text, separator=self._separator(text, block, before))
            before = block
            if start is None:
                continue
            heading = bool(self.levels) and is_heading(block, self.usual)
            self.unfinished = block.kind in ("text", "item") and text[-1:].isalnum() and not heading
            if heading:
                level = self.levels.get(round(block.size, 1), self.levels[0.0])
                self.draft.mark_heading(text, level, start)
            for entry in places.get(index, []):
                self.draft.mark_heading(entry.title, entry.level, start)

    def _separator(self, text: str, block: Block, before: Block | None) -> str:
        """A sentence goes on across the page; blocks without a gap between them stay close."""
        if before is None:
            goes_on = self.unfinished and block.kind == "text" and text[:1].islower()
            return " " if goes_on else "\n\n"
        return "\n\n" if block.gap or before.kind != block.kind else "\n"


def _places(blocks: Sequence[Block], entries: Sequence[_Entry]) -> dict[int, list[_Entry]]:
    """For each entry the index of the block that is its heading or, failing that, comes next."""
    places: dict[int, list[_Entry]] = {}
    keys = [_key("".join(line.text for line in block.lines[:4])) for block in blocks]
    earliest = 0
    for entry in entries:
        index = _find(entry, blocks, keys, earliest)
        if index is not None:
            places.setdefault(index, []).append(entry)
            earliest = index
    return places


def _find(entry: _Entry, blocks: Sequence[Block], keys: Sequence[str], earliest: int) -> int | None:
    title = _key(entry.title)
    matches = [
        i
        for i in range(earliest, len(blocks))
        if title
        and (keys[i] == title or (keys[i].endswith(title) and len(keys[i]) - len(title) <= 12))
    ]
    if matches and entry.y is not None:
        y = entry.y
        return min(matches, key=lambda i: abs(blocks[i].lines[0].top - y))
    if matches:
        return matches[0]
    below = (
        i
        for i in range(earliest, len(blocks))
        if entry.y is None or blocks[i].lines[0].bottom <= entry.y
    )
    return next(below, len(blocks) - 1 if blocks else None)


def _key(text: str) -> str:
    """Letters and digits only: outlines and headings differ in blanks, quotes and dashes."""
    return "".join(c for c in text.casefold() if c.isalnum())
