import io
from collections.abc import Callable

from reportlab.lib.enums import TA_JUSTIFY
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, Preformatted, SimpleDocTemplate, Table

from pharos.core import Document
from pharos.data.parsing import parse_bytes

STYLES = getSampleStyleSheet()
BODY, H1, H2, CODE = (STYLES[name] for name in ("BodyText", "Heading1", "Heading2", "Code"))
PROSE = (
    "The keeper enters every visit in the log, with the hour and the weather, and signs below it. "
    "Whoever relieves him reads the entries of the last three days before he takes over the watch. "
)


def read(data: bytes) -> Document:
    return parse_bytes(data, name="manual.pdf", source="s")


def drawn(draw: Callable[[Canvas], None]) -> Document:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, invariant=1)
    draw(canvas)
    canvas.save()
    return read(buffer.getvalue())


def typeset(story: list[object], **options: str) -> Document:
    buffer = io.BytesIO()
    SimpleDocTemplate(buffer, invariant=1, **options).build(story)
    return read(buffer.getvalue())


def test_lines_flow_into_paragraphs() -> None:
    style = ParagraphStyle("justified", BODY, alignment=TA_JUSTIFY)
    story = [Paragraph(PROSE * 2, style), Paragraph(PROSE, style)]
    assert typeset(story).text == f"{(PROSE * 2).strip()}\n\n{PROSE.strip()}"


def test_a_word_divided_at_the_end_of_a_line_is_whole_again() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(72, 700, "Every harbour keeps its own regula-")
        canvas.drawString(72, 688, "tions, and the well-known rules of the")
        canvas.drawString(72, 676, "sea are known to everyone; a well-")
        canvas.drawString(72, 664, "known rule is the right of way.")

    assert drawn(draw).text == (
        "Every harbour keeps its own regulations, and the well-known rules of the sea are known "
        "to everyone; a well-known rule is the right of way."
    )


def test_a_sentence_goes_on_across_a_page_and_its_halves_know_their_pages() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(72, 60, "The lamp burns from dusk until")
        canvas.showPage()
        canvas.drawString(72, 750, "dawn on every day of the year.")

    document = drawn(draw)
    assert document.text == "The lamp burns from dusk until dawn on every day of the year."
    assert document.place_at(document.text.index("dusk")).page == 1
    assert document.place_at(document.text.index("dawn")).page == 2


def test_headers_footers_and_page_numbers_are_dropped() -> None:
    def draw(canvas: Canvas) -> None:
        for number in range(1, 6):
            canvas.drawString(72, 800, "Station handbook")
            canvas.drawString(
                72, 700, f"Chapter {'ABCDE'[number - 1]} tells of the {number}th thing."
            )
            canvas.drawString(280, 40, str(number))
            canvas.showPage()

    text = drawn(draw).text
    assert "handbook" not in text
    assert [line[-10:] for line in text.split("\n\n")] == [f"{n}th thing." for n in range(1, 6)]


def test_a_table_of_contents_is_dropped() -> None:
    def draw(canvas: Canvas) -> None:
        for n, title in enumerate(["Lamp", "Lens", "Tower"]):
            canvas.drawString(72, 700 - 14 * n, f"{title} . . . . . . . . . . . . . {n + 3}")
        canvas.drawString(72, 600, "The text begins here.")

    assert drawn(draw).text == "The text begins here."


def test_the_outline_gives_the_headings() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setFont("Helvetica-Bold", 16)
        canvas.drawString(72, 750, "1 Lamps")
        canvas.bookmarkPage("a")
        canvas.addOutlineEntry("Lamps", "a", 0)
        canvas.setFont("Helvetica", 10)
        canvas.drawString(72, 720, "About lamps.")
        canvas.showPage()
        canvas.drawString(72, 750, "1.1 Wicks")
        canvas.drawString(72, 720, "About wicks.")
        canvas.bookmarkPage("b")
        canvas.addOutlineEntry("Wicks", "b", 1)

    document = drawn(draw)
    assert [s.headings for s in document.sections] == [("Lamps",), ("Lamps", "Wicks")]
    assert document.text[document.sections[1].start :].startswith("1.1 Wicks")


def test_without_an_outline_size_and_weight_make_headings() -> None:
    story = [
        Paragraph("The great light", STYLES["Title"]),
        Paragraph("Optics", H1),
        Paragraph(PROSE, BODY),
        Paragraph("Lenses", H2),
        Paragraph(PROSE, BODY),
    ]
    document = typeset(story)
    assert document.title == "The great light"
    assert [s.headings[-1] for s in document.sections] == ["The great light", "Optics", "Lenses"]
    assert document.sections[2].headings[-2:] == ("Optics", "Lenses")


def test_tables_become_rows_of_cells() -> None:
    rows = [["Part", "Shelf", "Count"], ["Bulb", "K7", "12"], ["Wick", "K8", "140"]]
    text = typeset([Paragraph(PROSE, BODY), Table(rows), Paragraph(PROSE, BODY)]).text
    assert "\n\nPart | Shelf | Count\nBulb | K7 | 12\nWick | K8 | 140\n\n" in text


def test_code_keeps_its_lines_and_indents() -> None:
    code = "if lit:\n    report(lamp)\nelse:\n    alarm()"
    text = typeset([Paragraph(PROSE, BODY), Preformatted(code, CODE), Paragraph(PROSE, BODY)]).text
    assert f"\n\n{code}\n\n" in text


def test_bullets_stay_items() -> None:
    def draw(canvas: Canvas) -> None:
        for n, line in enumerate(["Bring along:", "• a lamp", "• two wicks", "1. Climb."]):
            canvas.drawString(72, 700 - 12 * n, line)

    text = drawn(draw).text.replace("\n\n", "\n")
    assert text == "Bring along:\n• a lamp\n• two wicks\n1. Climb."


def test_title_author_and_date_come_from_the_file_unless_they_are_useless() -> None:
    document = typeset([Paragraph(PROSE, BODY)], title="Watch rules", author="R. S.")
    assert (document.title, document.metadata["author"]) == ("Watch rules", "R. S.")
    assert typeset([Paragraph(PROSE, BODY)], title="draft-3.docx").title == "manual"


def test_pages_without_text_are_named() -> None:
    from PIL import Image
    from reportlab.lib.utils import ImageReader

    def draw(canvas: Canvas) -> None:
        canvas.drawString(72, 700, "Typed.")
        canvas.showPage()
        canvas.drawImage(ImageReader(Image.new("L", (9, 9))), 0, 0, 500, 700)

    document = drawn(draw)
    assert document.metadata["pages_without_text"] == "2"
    assert [page.number for page in document.pages] == [1]


def test_every_page_of_a_long_document_is_where_it_says() -> None:
    words = ["anchor", "beacon", "compass", "dinghy", "ebb", "fathom"]
    story: list[object] = []
    for number, word in enumerate(words, start=1):
        story += [Paragraph(f"About {word}. {PROSE * number}", BODY), PageBreak()]
    document = typeset(story)
    for number, word in enumerate(words, start=1):
        assert document.place_at(document.text.index(f"About {word}.")).page == number
