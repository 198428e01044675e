"""DOCX, PPTX, XLSX and EPUB."""

import datetime
import io
import zipfile
from collections.abc import Callable
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls, qn
from pptx.util import Inches

from pharos.core import Document
from pharos.data.parsing import parse_bytes


def saved(document: Any, name: str) -> Document:
    buffer = io.BytesIO()
    document.save(buffer)
    return parse_bytes(buffer.getvalue(), name=name, source="s")


# --- DOCX --------------------------------------------------------------------------------------


def word(fill: Callable[[Any], None]) -> Document:
    document = docx.Document()
    fill(document)
    return saved(document, "a.docx")


def test_word_headings_nest_and_the_title_is_outermost() -> None:
    def fill(document: Any) -> None:
        for text, level in [("Policy", 0), ("Scope", 1), ("People", 2), ("Dates", 1)]:
            document.add_heading(text, level)
            document.add_paragraph(f"About {text}.")

    assert [s.headings for s in word(fill).sections] == [
        ("Policy",),
        ("Policy", "Scope"),
        ("Policy", "Scope", "People"),
        ("Policy", "Dates"),
    ]


def test_word_lists_are_marked_and_numbered() -> None:
    def fill(document: Any) -> None:
        for style in ["List Bullet", "List Bullet", "List Number", "List Number"]:
            document.add_paragraph("item", style=style)
        document.add_paragraph("Text.")

    assert word(fill).text == "- item\n- item\n1. item\n2. item\n\nText."


def test_word_tabs_breaks_and_hyphens_keep_words_apart() -> None:
    def fill(document: Any) -> None:
        run = document.add_paragraph("a\tb\nc").add_run("d")
        run._r.append(OxmlElement("w:noBreakHyphen"))
        run.add_text("e")

    assert word(fill).text == "a\tb\ncd-e"


def test_word_tables_become_rows_and_nested_ones_too() -> None:
    def fill(document: Any) -> None:
        table = document.add_table(rows=2, cols=2)
        for cell, text in zip(
            [c for row in table.rows for c in row.cells],
            ["City", "Rate", "Oslo", "180\nEUR"],
            strict=True,
        ):
            cell.text = text
        inner = table.rows[1].cells[0].add_table(rows=1, cols=2)
        inner.rows[0].cells[0].text, inner.rows[0].cells[1].text = "x", "y"
        document.add_paragraph("After.")

    assert word(fill).text == "City | Rate\nOslo x | y | 180 EUR\n\nAfter."


def test_what_word_shows_as_deleted_is_gone() -> None:
    def fill(document: Any) -> None:
        paragraph = document.add_paragraph("Kept.")
        deleted = OxmlElement("w:del")
        run = OxmlElement("w:r")
        text = OxmlElement("w:delText")
        text.text = "Secret."
        run.append(text)
        deleted.append(run)
        paragraph._p.append(deleted)
        document.sections[0].header.paragraphs[0].text = "ACME"
        document.add_comment(paragraph.runs, text="Really?")

    assert word(fill).text == "Kept."


def test_a_text_box_is_read_once() -> None:
    def fill(document: Any) -> None:
        run = document.add_paragraph("Beside.").add_run()._r
        inner = "<w:txbxContent><w:p><w:r><w:t>In the box.</w:t></w:r></w:p></w:txbxContent>"
        run.append(
            parse_xml(
                f'<mc:AlternateContent xmlns:mc="urn:mc" {nsdecls("w")}>'
                f"<mc:Choice>{inner}</mc:Choice><mc:Fallback>{inner}</mc:Fallback></mc:AlternateContent>"
            )
        )

    assert sorted(word(fill).text.split("\n\n")) == ["Beside.", "In the box."]


def test_numbered_word_headings_carry_their_numbers() -> None:
    def fill(document: Any) -> None:
        number = document.part.numbering_part.element
        template = OxmlElement("w:abstractNum", {qn("w:abstractNumId"): "77"})
        for level, pattern in enumerate(["%1", "%1.%2"]):
            element = OxmlElement("w:lvl", {qn("w:ilvl"): str(level)})
            element.append(OxmlElement("w:numFmt", {qn("w:val"): "decimal"}))
            element.append(OxmlElement("w:lvlText", {qn("w:val"): pattern}))
            template.append(element)
        number.insert(0, template)
        instance = OxmlElement("w:num", {qn("w:numId"): "77"})
        instance.append(OxmlElement("w:abstractNumId", {qn("w:val"): "77"}))
        number.append(instance)
        for text, level in [("One", 1), ("Inner", 2), ("Inner", 2), ("Two", 1), ("Inner", 2)]:
            settings = document.add_heading(text, level)._p.get_or_add_pPr()
            numbers = settings.get_or_add_numPr()
            numbers.get_or_add_ilvl().val = level - 1
            numbers.get_or_add_numId().val = 77

    assert word(fill).text.split("\n\n") == [
        "1 One",
        "1.1 Inner",
        "1.2 Inner",
        "2 Two",
        "2.1 Inner",
    ]


# --- PPTX --------------------------------------------------------------------------------------


def test_slides_are_pages_with_bullets_tables_and_notes() -> None:
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    frame = slide.placeholders[1].text_frame
    frame.text = "First"
    paragraph = frame.add_paragraph()
    paragraph.text, paragraph.level = "Detail", 1
    slide.notes_slide.notes_text_frame.text = "Smile."
    slide = presentation.slides.add_slide(presentation.slide_layouts[6])
    table = slide.shapes.add_table(1, 2, 0, 0, Inches(2), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    document = saved(presentation, "a.pptx")
    assert document.text == "Plan\n\n- First\n  - Detail\n\nNotes: Smile.\n\na | b"
    assert [page.number for page in document.pages] == [1, 2]
    assert [section.headings for section in document.sections] == [("Plan",), ("Slide 2",)]


# --- XLSX --------------------------------------------------------------------------------------


def test_sheets_are_sections_and_values_are_as_shown() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Costs"
    day = datetime.datetime(2024, 2, 29, 13, 30)
    sheet.append(["What", None, day.date(), day, datetime.time(8, 15), True, 0.1 + 0.2, 1e20])
    sheet["A3"], sheet["B3"] = 0.07, "=1/0"
    sheet["A3"].number_format = "0.00%"
    book.create_sheet("Empty")
    book.create_sheet("More")["B2"] = "x"
    document = saved(book, "costs.xlsx")
    assert document.text == (
        "Costs\n\nWhat |  | 2024-02-29 | 2024-02-29 13:30:00 | 08:15:00 | TRUE | 0.3 | 1e+20\n7%"
        "\n\nMore\n\nx"
    )
    assert [section.headings for section in document.sections] == [("Costs",), ("More",)]
    assert document.title == "costs"


# --- EPUB --------------------------------------------------------------------------------------


def test_chapters_come_in_reading_order(corpus: dict[str, Any]) -> None:
    document = parse_bytes(corpus["epub"].read_bytes(), name="a.epub", source="s")
    assert [section.headings for section in document.sections] == [("Beginnings",), ("Today",)]
    assert (document.title, document.metadata["author"]) == ("History of the light", "A. Keeper")


def test_an_epub_whose_package_is_missing_says_so() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "META-INF/container.xml", '<container><rootfile full-path="x.opf"/></container>'
        )
    with pytest.raises(Exception, match=r"is damaged: the archive lacks 'x.opf'"):
        parse_bytes(buffer.getvalue(), name="a.epub", source="s")
