"""One real document of every format, each with a fact that stands in no other.

`write_corpus(folder)` writes them and returns their paths by format; `FACTS` says what each knows.
"""

import gzip
import textwrap
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

FACTS = {
    "pdf": "The lamp room is inspected every 14 days.",
    "html": "The keeper receives a travel allowance of 85 euros per night.",
    "docx": "Spare bulbs are stored in cabinet K7 on the second floor.",
    "pptx": "The new lens reaches a range of 26 nautical miles.",
    "xlsx": "Fresnel lens",
    "csv": "Northern breakwater",
    "epub": "The first tower was lit in the year 1784.",
    "md": "The fog signal repeats every 90 seconds.",
    "rst": "The generator runs on 40 litres of diesel a day.",
    "txt": "Visitors may climb the tower on Sundays between ten and four.",
    "1.gz": "Prints the time of sunset for a given latitude.",
    "eml": "The supply boat arrives on Thursday at half past six.",
    "py": "Return the height of the tide in metres.",
}


def write_corpus(folder: Path) -> dict[str, Path]:
    """Write a document of every format into `folder`; the keys are those of `FACTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for key, (name, write) in _WRITERS.items():
        paths[key] = folder / name
        write(paths[key])
    return paths


def _pdf(path: Path) -> None:
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    styles = getSampleStyleSheet()
    filler = (
        "Routine work is planned a month ahead and entered in the station log, together with the "
        "name of whoever carried it out and the parts that were used in the course of it. "
    )

    def footer(canvas, document):  # type: ignore[no-untyped-def]
        canvas.drawString(72, 40, f"Harbour authority - confidential - {document.page}")

    story = [
        Paragraph("Inspection manual", styles["Title"]),
        Paragraph("Intervals", styles["Heading1"]),
        Paragraph(filler * 2, styles["BodyText"]),
        Paragraph(FACTS["pdf"], styles["BodyText"]),
        PageBreak(),
        Paragraph("Tools", styles["Heading1"]),
        Table([["Tool", "Size", "Shelf"], ["Spanner", "13 mm", "B2"], ["Caliper", "150 mm", "C4"]]),
        PageBreak(),
        Paragraph("Records", styles["Heading1"]),
        Paragraph(filler * 3, styles["BodyText"]),
    ]
    SimpleDocTemplate(
        str(path), title="Inspection manual", author="R. Stevenson", invariant=1
    ).build(story, onFirstPage=footer, onLaterPages=footer)


def _html(path: Path) -> None:
    path.write_text(
        f"""<!DOCTYPE html><html><head><title>Travel policy - Intranet</title>
        <meta name="author" content="Office of the Harbour Master"><style>p {{color: red}}</style>
        </head><body><nav><a href="/">Home</a> <a href="/next">Next</a></nav>
        <main><h1>Travel policy<a class="headerlink" href="#top">¶</a></h1>
        <p>Who travels on duty books trains first.</p>
        <h2>Allowances</h2><p>{FACTS["html"]}</p>
        <table><tr><th>City</th><th>Hotel</th></tr><tr><td>Oslo</td><td>180 EUR</td></tr></table>
        <pre>book --from Oslo
  --to Bergen</pre><img src="http://127.0.0.1:9/pixel.png"></main>
        <footer>© 2024 Intranet team</footer><script>alert("x")</script></body></html>""",
        encoding="utf-8",
    )


def _docx(path: Path) -> None:
    import docx

    document = docx.Document()
    document.core_properties.title = "Stores handbook"
    document.add_heading("Stores handbook", 0)
    document.add_heading("Bulbs", 1)
    document.add_paragraph(FACTS["docx"])
    document.add_paragraph("Handle with gloves", style="List Bullet")
    document.add_paragraph("Report breakage", style="List Bullet")
    document.add_heading("Stock", 2)
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(
        [*table.rows[0].cells, *table.rows[1].cells], ["Part", "Count", "Bulb", "12"], strict=True
    ):
        cell.text = text
    document.save(str(path))


def _pptx(path: Path) -> None:
    import pptx

    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Modernisation"
    slide.placeholders[1].text = "Budget approved\nWork begins in May"
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Optics"
    slide.placeholders[1].text = FACTS["pptx"]
    slide.notes_slide.notes_text_frame.text = "Mention the manufacturer."
    presentation.save(str(path))


def _xlsx(path: Path) -> None:
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Inventory"
    sheet.append(["Item", "Bought", "Price", "Share"])
    sheet.append([FACTS["xlsx"], datetime.date(2023, 5, 17), 18250.5, 0.125])
    sheet["D2"].number_format = "0.0%"
    book.create_sheet("Suppliers").append(["Name", "Chance Brothers"])
    book.save(path)


def _csv(path: Path) -> None:
    path.write_text(f'Site;Depth;Remark\n{FACTS["csv"]};12,5;"silted; dredge"\nQuay;8;\n')


def _epub(path: Path) -> None:
    container = """<?xml version="1.0"?>
        <container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
        <rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>
        </rootfiles></container>"""
    package = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
        <metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
        <dc:title>History of the light</dc:title><dc:creator>A. Keeper</dc:creator></metadata>
        <manifest>
        <item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>
        <item id="a" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>
        <spine><itemref idref="a"/><itemref idref="b"/></spine></package>"""
    page = "<html><head><title>{0}</title></head><body><h1>{0}</h1><p>{1}</p></body></html>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("OEBPS/book.opf", package)
        archive.writestr("OEBPS/one.xhtml", page.format("Beginnings", FACTS["epub"]))
        archive.writestr("OEBPS/two.xhtml", page.format("Today", "It is automated now."))


def _markdown(path: Path) -> None:
    text = f"""\
        # Fog signal

        [![Build](http://127.0.0.1/b.svg)](https://example.org) ![Tower](http://127.0.0.1/)

        ## Operation

        {FACTS["md"]}

        ```sh
        # not a heading
        fogctl --interval 90
        ```

        Maintenance
        -----------

        See [the manual](https://example.org/manual) for `grease` points.
        """
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def _rst(path: Path) -> None:
    text = f"""\
        =========
        Generator
        =========

        .. contents::

        Fuel
        ====

        {FACTS["rst"]} See :ref:`the log <log>` and ``dieselctl``.

        Storage
        -------

        Two tanks stand outside.
        """
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def _text(path: Path) -> None:
    path.write_text(f"VISITING HOURS\n\n{FACTS['txt']}\n\nTickets\n-------\n\nAt the gate.\n")


def _man(path: Path) -> None:
    page = f"""\
        .TH SUNSET 1 "May 2024" "harbour 2.0"
        .SH NAME
        sunset \\- time of sunset
        .SH DESCRIPTION
        {FACTS["1.gz"]}
        .SH OPTIONS
        .TP
        \\fB\\-l\\fR, \\fB\\-\\-latitude\\fR=\\fIDEG\\fR
        the latitude in degrees
        """
    path.write_bytes(gzip.compress(textwrap.dedent(page).encode(), mtime=0))


def _mail(path: Path) -> None:
    message = EmailMessage()
    message["From"] = "Harbour office <office@example.org>"
    message["To"] = "keeper@example.org"
    message["Date"] = "Mon, 06 May 2024 08:30:00 +0200"
    message["Subject"] = "Supply boat – new time"
    message.set_content(f"Dear keeper,\n\n{FACTS['eml']}\n\nRegards\n")
    message.add_attachment(
        b"%PDF-1.4", maintype="application", subtype="pdf", filename="timetable.pdf"
    )
    path.write_bytes(message.as_bytes())


def _python(path: Path) -> None:
    code = f'''\
        """Tide tables."""


        class Tide:
            def height(self, hour: int) -> float:
                """{FACTS["py"]}"""
                return 1.2 * hour


        def main() -> None:
            print(Tide().height(6))
        '''
    path.write_text(textwrap.dedent(code), encoding="utf-8")


_WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "pdf": ("inspection.pdf", _pdf),
    "html": ("travel.html", _html),
    "docx": ("stores.docx", _docx),
    "pptx": ("modernisation.pptx", _pptx),
    "xlsx": ("inventory.xlsx", _xlsx),
    "csv": ("soundings.csv", _csv),
    "epub": ("history.epub", _epub),
    "md": ("fog-signal.md", _markdown),
    "rst": ("generator.rst", _rst),
    "txt": ("visiting.txt", _text),
    "1.gz": ("sunset.1.gz", _man),
    "eml": ("boat.eml", _mail),
    "py": ("tide.py", _python),
}
