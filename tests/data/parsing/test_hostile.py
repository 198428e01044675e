"""Files that mean harm or are broken: each is refused with a reason, soon and in little memory."""

import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pharos.core import DocumentError
from pharos.data.parsing import ParseLimits, parse, parse_bytes

SMALL = ParseLimits(max_unpacked_bytes=1_000_000, max_members=50, max_bytes=3_000_000)


def refusal(data: bytes, name: str, limits: ParseLimits = SMALL) -> str:
    with pytest.raises(DocumentError) as caught:
        parse_bytes(data, name=name, source="s", limits=limits)
    return str(caught.value)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# --- the file system ---------------------------------------------------------------------------


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DocumentError, match="is a named pipe; only regular files are read"):
        parse(tmp_path / "pipe.txt", source="s")


@pytest.mark.parametrize(("path", "kind"), [("/dev/zero", "a character device"), ("/", "a folder")])
def test_devices_and_directories_are_refused(path: str, kind: str) -> None:
    with pytest.raises(DocumentError, match=f"is {kind}; only regular files are read"):
        parse(Path(path), source="s")


def test_a_vanished_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is no such file"):
        parse(tmp_path / "gone.txt", source="s")


def test_a_symbolic_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with pytest.raises(DocumentError, match="cannot be read: Too many levels of symbolic links"):
        parse(tmp_path / "loop.txt", source="s")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secret.txt").chmod(0)
    with pytest.raises(DocumentError, match="cannot be read: Permission denied"):
        parse(tmp_path / "secret.txt", source="s")


def test_a_gigabyte_of_zeros_is_refused_by_its_size_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros.txt"
    with path.open("wb") as file:
        file.truncate(1_000_000_000)
    with pytest.raises(DocumentError, match=r"1,000,000,000 bytes, above the limit of 200,000,000"):
        parse(path, source="s")


def test_a_file_of_zeros_below_the_limit_is_refused_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "zeros.txt"
    with path.open("wb") as file:
        file.truncate(150_000_000)
    with pytest.raises(DocumentError, match="binary: a NUL byte at 0"):
        parse(path, source="s")


# --- what is no text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "README", "a.html", "a.csv", "a.py", "a.eml", "a.1"]
)
def test_binary_junk_is_refused_whatever_it_is_called(name: str) -> None:
    assert "binary: a NUL byte" in refusal(bytes(range(256)) * 10, name)
    assert "control characters" in refusal(bytes(range(1, 256)) * 10, name)


@pytest.mark.parametrize("data", [b"", b"\n \n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(data: bytes) -> None:
    assert refusal(data, "a.txt") == "empty: no text"


def test_pictures_and_old_office_files_are_called_what_they_are() -> None:
    assert "is a PNG picture; text in pictures is not read" in refusal(
        b"\x89PNG\r\n\x1a\n\0\0", "scan.txt"
    )
    assert "save it as .docx" in refusal(
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "old.doc"
    )


def test_text_that_is_too_long_is_refused() -> None:
    limits = ParseLimits(max_characters=100)
    for name in ("a.txt", "a.md", "a.html", "a.csv", "a.rst", "a.1", "a.py"):
        assert "more than 100 characters" in refusal(b"some words, and more\n" * 40, name, limits)


# --- PDF ---------------------------------------------------------------------------------------


def encrypted_pdf() -> bytes:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption("secret", strength=128))
    canvas.drawString(72, 700, "hidden")
    canvas.save()
    return buffer.getvalue()


def scanned_pdf(pages: int) -> bytes:
    from PIL import Image
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    for _ in range(pages):
        canvas.drawImage(ImageReader(Image.new("L", (20, 20), 128)), 0, 0, 500, 700)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def test_an_encrypted_pdf_is_refused() -> None:
    assert refusal(encrypted_pdf(), "a.pdf") == "is encrypted: it opens only with a password"


def test_a_scanned_pdf_is_refused_and_not_silently_empty() -> None:
    assert refusal(scanned_pdf(3), "a.pdf") == "no text layer: 3 pages are images; OCR is not done"


def test_a_truncated_pdf_is_refused(corpus: dict[str, Path]) -> None:
    data = corpus["pdf"].read_bytes()
    assert "damaged or truncated" in refusal(data[:200], "a.pdf")


def test_a_web_page_that_calls_itself_pdf_is_refused() -> None:
    assert "does not begin as a PDF file does" in refusal(b"<html><p>404</p></html>", "a.pdf")


# --- archives ----------------------------------------------------------------------------------


def bomb(member: str, limit: int = 30_000_000) -> bytes:
    return zipped({"[Content_Types].xml": b"<Types/>", member: b"\0" * limit})


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("a.docx", "word/document.xml"),
        ("a.pptx", "ppt/presentation.xml"),
        ("a.xlsx", "xl/workbook.xml"),
        ("a.epub", "META-INF/container.xml"),
    ],
)
def test_a_zip_bomb_is_refused_by_what_it_declares(name: str, member: str) -> None:
    assert "above the limit of 1,000,000 (max_unpacked_bytes)" in refusal(bomb(member), name)
    assert "times its size" in refusal(bomb(member), name, ParseLimits(max_ratio=100))


def test_a_zip_bomb_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(bomb("word/document.xml"))
    true_size, small = (30_000_000).to_bytes(4, "little"), (500).to_bytes(4, "little")
    assert data.count(true_size) >= 2
    lying = bytes(data).replace(true_size, small)
    reason = refusal(lying, "a.docx")
    assert "damaged" in reason or "not well-formed" in reason


def test_an_archive_of_very_many_files_is_refused() -> None:
    members = {f"word/{n}.xml": b"" for n in range(60)} | {"word/document.xml": b"<x/>"}
    assert "holds 61 files, above the limit of 50 (max_members)" in refusal(
        zipped(members), "a.docx"
    )


def test_an_archive_of_something_else_is_refused() -> None:
    assert "archive of unknown content" in refusal(zipped({"a.txt": b"a"}), "a.zip")


def test_a_gzip_bomb_is_refused() -> None:
    data = gzip.compress(b".SH A\n" * 3_000_000)
    assert "(max_unpacked_bytes)" in refusal(data, "ls.1.gz")
    assert "decompression bomb" in refusal(data, "ls.1.gz", ParseLimits(max_ratio=50))


def test_a_truncated_gzip_file_is_refused() -> None:
    data = gzip.compress(os.urandom(5000).hex().encode())
    assert "truncated gzip" in refusal(data[:3000], "ls.1.gz")


def test_an_entity_bomb_is_refused(corpus: dict[str, Path]) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    document = f'<!DOCTYPE d [<!ENTITY e0 "boom">{entities}]><d xmlns="w"><p>&e9;</p></d>'
    members = {"word/document.xml": document.encode()}
    assert "defines XML entities" in refusal(zipped(members), "a.docx", ParseLimits())


def test_an_external_entity_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    document = f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><d><p>&x;</p></d>'
    assert "defines XML entities" in refusal(
        zipped({"word/document.xml": document.encode()}), "a.docx"
    )


# --- depth, width and the network --------------------------------------------------------------


def test_a_hundred_thousand_nested_elements_are_read() -> None:
    html = "<main>" + "<div>" * 100_000 + "deep" + "</div>" * 100_000 + "<p>after</p></main>"
    text = parse_bytes(html.encode(), name="a.html", source="s").text
    assert "deep" in text and "after" in text


@pytest.mark.parametrize(
    "tag", ["ul><li", "table><tr><td", "blockquote", "b", "font", "pre", "main", "sup", "dl><dd"]
)
def test_deeply_nested_elements_of_any_kind_are_read(tag: str) -> None:
    html = f"<{tag}>" * 20_000 + "deep"
    assert "deep" in parse_bytes(html.encode(), name="a.html", source="s").text


def test_deeply_nested_xml_is_refused() -> None:
    document = b'<d xmlns="w">' + b"<p>" * 100_000
    assert "not well-formed" in refusal(zipped({"word/document.xml": document}), "a.docx")


def test_deeply_nested_mail_is_read_or_refused() -> None:
    part = b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n'
    data = b"MIME-Version: 1.0\n" + b"".join(part % (n, n) for n in range(3000)) + b"\nhello\n"
    try:
        parse_bytes(data, name="a.eml", source="s")
    except DocumentError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.md", lambda n: "[" * n),
        ("a.md", lambda n: "![" * n),
        ("a.md", lambda n: "<!--" * n),
        ("a.md", lambda n: "`" * n),
        ("a.md", lambda n: "<a " * n),
        ("a.md", lambda n: "**a" * n),
        ("a.rst", lambda n: "`" * n),
        ("a.rst", lambda n: ":a:" * n),
        ("a.txt", lambda n: "A B " * n),
        ("a.txt", lambda n: "a" + " " * n + "b"),
        ("a.txt", lambda n: "\x08" * n),
        ("a.html", lambda n: "<" * n),
        ("a.html", lambda n: "<table>" + "<tr><td rowspan=999>x" * (n // 20)),
        ("a.1", lambda n: ".SH x\n" + "\\f" * n),
        ("a.1", lambda n: ".SH x\n.if " + "(" * n),
        ("a.c", lambda n: "a(" * n),
        ("a.csv", lambda n: '"' * n),
        ("a.eml", lambda n: "Subject: " + "=?utf-8?q?" * (n // 10) + "\n\nx"),
    ],
)
def test_time_grows_with_the_size_and_not_with_its_square(
    name: str, make: Callable[[int], str]
) -> None:
    data = make(60_000).encode()
    try:
        parse_bytes(data, name=name, source="s")
    except DocumentError as error:
        assert str(error)


def test_nothing_is_fetched_and_nothing_heavy_imported(corpus: dict[str, Path]) -> None:
    code = """
import socket, sys
def refuse(*args, **kwargs): raise SystemExit("tried to use the network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from pathlib import Path
from pharos.data.parsing import parse
heavy = {"torch", "lancedb", "numpy.linalg", "pypdfium2"} & set(sys.modules)
assert not heavy, heavy
for path in sys.argv[1:]:
    parse(Path(path), source=path)
assert "torch" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code, *map(str, corpus.values())], check=True, timeout=600
    )
