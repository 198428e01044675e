"""PPTX: a page for each slide, its title as heading, bullets, tables and the speaker's notes."""

from lxml import etree

from pharos.data.parsing.archives import Archive
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.ooxml import properties, relationships
from pharos.data.parsing.tabular import add_table
from pharos.data.parsing.xml import attribute, local_name, parse_xml

_PRESENTATION = "ppt/presentation.xml"
_TITLES = frozenset({"title", "ctrTitle"})
_FURNITURE = frozenset({"sldNum", "dt", "ftr", "hdr", "sldImg"})
_BULLETED = frozenset({"body", "obj", ""})  # a placeholder without a type holds an outline


def parse_pptx(raw: Raw) -> Parsed:
    with Archive(raw.data, raw.limits) as archive:
        title, metadata = properties(archive)
        draft = Draft(raw.limits)
        for number, slide in enumerate(_slides(archive), start=1):
            draft.begin_page(number)
            _add_slide(draft, archive, slide, number)
    if title == "PowerPoint Presentation":  # what PowerPoint writes when nobody gave one
        title = ""
    return draft.finish(title=title, metadata=metadata)


def _slides(archive: Archive) -> list[str]:
    """The parts of the slides in the order they are shown."""
    targets = {r.id: r.target for r in relationships(archive, _PRESENTATION) if r.kind == "slide"}
    root = parse_xml(archive.read(_PRESENTATION), _PRESENTATION)
    ids = [_relationship_id(element) for element in root.iter("{*}sldId")]
    return [targets[i] for i in ids if i in targets and targets[i] in archive]


def _relationship_id(element: etree._Element) -> str:
    """`r:id`, which stands beside an `id` of no namespace."""
    return next((str(v) for k, v in element.attrib.items() if str(k).endswith("}id")), "")


def _add_slide(draft: Draft, archive: Archive, part: str, number: int) -> None:
    shapes = list(parse_xml(archive.read(part), part).iter("{*}sp", "{*}graphicFrame"))
    titles = [shape for shape in shapes if _placeholder(shape) in _TITLES]
    title = " ".join(" ".join(text for _, text in _paragraphs(shape)) for shape in titles)
    if title.strip():
        draft.add_heading(title, 1)
    untitled = not title.strip()
    for shape in shapes:
        if _placeholder(shape) in _TITLES | _FURNITURE:
            continue
        start = _add_shape(draft, shape)
        if untitled and start is not None:
            draft.mark_heading(f"Slide {number}", 1, start)
            untitled = False
    for related in relationships(archive, part):
        if related.target not in archive:
            continue
        if related.kind == "diagramData":
            _add_diagram(draft, parse_xml(archive.read(related.target), related.target))
        elif related.kind == "notesSlide":
            _add_notes(draft, parse_xml(archive.read(related.target), related.target))


def _placeholder(shape: etree._Element) -> str | None:
    """The type of placeholder that a shape fills; None for a shape of its own."""
    placeholder = next(shape.iter("{*}ph"), None)
    return None if placeholder is None else attribute(placeholder, "type") or ""


def _add_shape(draft: Draft, shape: etree._Element) -> int | None:
    """Appends a table or the paragraphs of a shape; returns where they start."""
    start: int | None = None
    if (table := next(shape.iter("{*}tbl"), None)) is not None:
        return add_table(draft, ([_cell(c) for c in r.iter("{*}tc")] for r in table.iter("{*}tr")))
    bullet = "- " if _placeholder(shape) in _BULLETED else ""
    for level, text in _paragraphs(shape):
        separator = "\n" if bullet and start is not None else "\n\n"
        added = draft.add(f"{'  ' * level if bullet else ''}{bullet}{text}", separator=separator)
        start = added if start is None else start
    return start


def _paragraphs(element: etree._Element) -> list[tuple[int, str]]:
    """The outline level and text of each paragraph that is not blank."""
    found = []
    for paragraph in element.iter("{*}p"):
        settings = next(paragraph.iterchildren("{*}pPr"), None)
        level = attribute(settings, "lvl") or "0"
        text = _paragraph_text(paragraph)
        if text.strip():
            found.append((min(int(level), 8) if level.isdigit() else 0, text))
    return found


def _paragraph_text(paragraph: etree._Element) -> str:
    parts = []
    for node in paragraph.iter():
        if local_name(node) == "t":
            parts.append(node.text or "")
        elif local_name(node) == "br":
            parts.append("\n")
    return "".join(parts).replace("\v", "\n")


def _cell(cell: etree._Element) -> str:
    return " ".join(text for _, text in _paragraphs(cell))


def _add_diagram(draft: Draft, root: etree._Element) -> None:
    """SmartArt keeps its text in a part of its own."""
    for number, (_, text) in enumerate(_paragraphs(root)):
        draft.add(f"- {text}", separator="\n" if number else "\n\n")


def _add_notes(draft: Draft, root: etree._Element) -> None:
    for shape in root.iter("{*}sp"):
        if _placeholder(shape) != "body":
            continue
        text = "\n".join(text for _, text in _paragraphs(shape))
        if text:
            draft.add(f"Notes: {text}")
