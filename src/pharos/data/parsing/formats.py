"""One table: which parser reads which file, by its name or by its first bytes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from pharos.core import DocumentError
from pharos.data.parsing.archives import Archive, gunzip
from pharos.data.parsing.code import parse_code
from pharos.data.parsing.decoding import HEAD_BYTES, check_is_text
from pharos.data.parsing.docx import parse_docx
from pharos.data.parsing.draft import Parsed, Raw
from pharos.data.parsing.epub import parse_epub
from pharos.data.parsing.html import parse_html
from pharos.data.parsing.mail import parse_mail, parse_mbox
from pharos.data.parsing.man import parse_man
from pharos.data.parsing.markdown import parse_markdown
from pharos.data.parsing.metadata import parse_metadata
from pharos.data.parsing.pdf import parse_pdf
from pharos.data.parsing.pptx import parse_pptx
from pharos.data.parsing.rst import parse_rst
from pharos.data.parsing.tabular import parse_delimited
from pharos.data.parsing.text import parse_text
from pharos.data.parsing.xlsx import parse_xlsx

Parser = Callable[[Raw], Parsed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """`name` is what `Document.format` says."""

    name: str
    parse: Parser


PDF = Format(name="pdf", parse=parse_pdf)
DOCX = Format(name="docx", parse=parse_docx)
PPTX = Format(name="pptx", parse=parse_pptx)
XLSX = Format(name="xlsx", parse=parse_xlsx)
EPUB = Format(name="epub", parse=parse_epub)
HTML = Format(name="html", parse=parse_html)
MARKDOWN = Format(name="markdown", parse=parse_markdown)
RST = Format(name="rst", parse=parse_rst)
TEXT = Format(name="text", parse=parse_text)
CSV = Format(name="csv", parse=parse_delimited)
MAN = Format(name="man", parse=parse_man)
MAIL = Format(name="mail", parse=parse_mail)
MBOX = Format(name="mbox", parse=parse_mbox)
METADATA = Format(name="metadata", parse=parse_metadata)
CODE = Format(name="code", parse=parse_code)

_CODE = """
    .py .pyi .c .h .cc .cpp .cxx .hpp .hh .m .cu .java .cs .js .mjs .cjs .jsx .ts .tsx .go .rs .rb
    .php .pl .pm .lua .r .jl .kt .kts .swift .scala .hs .ml .mli .erl .ex .exs .clj .lisp .el .scm
    .vim .sh .bash .zsh .ksh .fish .ps1 .bat .sql .proto .graphql .css .scss .less .vue .svelte
    .dart .f .f90 .f95 .asm .s .v .sv .vhd .tcl .awk .sed .toml .ini .cfg .conf .yaml .yml .json
    .cmake .mk .gradle .tf .nix .dockerfile .properties
"""

FORMATS: Mapping[str, Format] = {
    ".pdf": PDF,
    ".docx": DOCX,
    ".docm": DOCX,
    ".pptx": PPTX,
    ".pptm": PPTX,
    ".xlsx": XLSX,
    ".xlsm": XLSX,
    ".epub": EPUB,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".mkd": MARKDOWN,
    ".rst": RST,
    ".rest": RST,
    ".txt": TEXT,
    ".text": TEXT,
    ".log": TEXT,
    ".adoc": TEXT,
    ".asciidoc": TEXT,
    ".org": TEXT,
    ".tex": TEXT,
    ".csv": CSV,
    ".tsv": CSV,
    ".tab": CSV,
    ".eml": MAIL,
    ".mbox": MBOX,
    ".man": MAN,
    ".mdoc": MAN,
    **{f".{section}": MAN for section in range(1, 10)},
    **dict.fromkeys(_CODE.split(), CODE),
}
SUFFIXES = frozenset({*FORMATS, ".gz"})  # what is worth trying in a folder of many things


_NAMES = {"METADATA": METADATA, "PKG-INFO": METADATA, "Makefile": CODE, "Dockerfile": CODE}
_MAN_SUFFIX = re.compile(r"\.[1-9](?:[a-z]\w*)?")
_MEMBERS = (
    ("word/document.xml", DOCX),
    ("ppt/presentation.xml", PPTX),
    ("xl/workbook.xml", XLSX),
    ("META-INF/container.xml", EPUB),
)
_PACKED = (PDF, DOCX, PPTX, XLSX, EPUB)

_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PICTURES = {
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
}

_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_MBOX_START = re.compile(rb"From \S+ .{0,100}\d{4}\r?\n[\w-]+: ")
_MAIL_START = re.compile(rb"[A-Za-z-]{2,40}: ")
_MAIL_SIGN = re.compile(rb"^(?:Message-ID|MIME-Version|Received): ", re.MULTILINE | re.IGNORECASE)
_METADATA_START = re.compile(rb"Metadata-Version: ")
_ROFF_SIGN = re.compile(rb"^[.'](?:TH|Dd|SH|Sh|so|PP) ?", re.MULTILINE)
_RST_SIGN = re.compile(
    r"^\.\. \w[\w-]*::|^\.\. _|::$|:\w+:`|^[^\s#].{2,70}\n(?:={4,}|-{4,}|\*{4,}|~{4,})$",
    re.MULTILINE,
)
_MARKDOWN_SIGN = re.compile(r"^#{1,6} \S|^```|\]\((?:https?://|#|\.{0,2}/)", re.MULTILINE)


def unpacked(raw: Raw) -> Raw:
    """The file within a gzipped one (`ls.1` in `ls.1.gz`); any other as it is."""
    if not raw.data.startswith(_GZIP):
        return raw
    name = raw.name.removesuffix(".gz").removesuffix(".GZ")
    return Raw(data=gunzip(raw.data, raw.limits), name=name, limits=raw.limits)


def check_head(name: str, head: bytes) -> None:
    """Raises DocumentError if a file that begins so can be of no format read here."""
    if not head:
        raise DocumentError("empty: no text")
    if _is_pdf(head) or head.startswith((_GZIP, *_ZIP)):
        return
    if head.startswith(_OLE):
        raise DocumentError(
            "is a Word, Excel or PowerPoint file of before 2007, or an encrypted one; "
            "save it as .docx, .xlsx or .pptx without a password"
        )
    for magic, kind in _PICTURES.items():
        if head.startswith(magic):
            raise DocumentError(f"is {kind}; text in pictures is not read (no OCR)")
    if (named := _named(name)) in _PACKED and named is not None:
        raise DocumentError(
            f"does not begin as a {named.name.upper()} file does; damaged or misnamed"
        )
    check_is_text(head)


def format_of(raw: Raw) -> Format:
    """Which parser reads this file. Packed formats are recognised by their bytes whatever the
    file is called; text by its name and, failing that, by how it begins.

    Raises DocumentError for what nobody reads.
    """
    head = raw.data[:HEAD_BYTES]
    check_head(raw.name, head)
    if _is_pdf(head):
        return PDF
    if head.startswith(_ZIP):
        return _zip_format(raw)
    named = _named(raw.name)
    if named is MAN and not _ROFF_SIGN.search(head):
        return TEXT  # syslog.1
    return named or _sniffed(head)


def _is_pdf(head: bytes) -> bool:
    return b"%PDF-" in head[:1024]


def _zip_format(raw: Raw) -> Format:
    with Archive(raw.data, raw.limits) as archive:
        for member, format_ in _MEMBERS:
            if member in archive:
                return format_
    raise DocumentError("is an archive of unknown content; unpack it and add the files in it")


def _named(name: str) -> Format | None:
    path = PurePath(name)
    if (found := _NAMES.get(path.name)) is not None:
        return found
    suffix = path.suffix.lower()
    return FORMATS.get(suffix) or (MAN if _MAN_SUFFIX.fullmatch(suffix) else None)


def _sniffed(head: bytes) -> Format:
    if _HTML_START.match(head):
        return HTML
    if _METADATA_START.match(head):
        return METADATA
    if _MBOX_START.match(head):
        return MBOX
    if _MAIL_START.match(head) and _MAIL_SIGN.search(head):
        return MAIL
    if head.startswith(b"#!"):
        return CODE
    if head.startswith((b".", b"'")) and _ROFF_SIGN.search(head):
        return MAN
    text = head.decode("utf-8", errors="replace")
    rst, markdown = len(_RST_SIGN.findall(text)), len(_MARKDOWN_SIGN.findall(text))
    if not rst and not markdown:
        return TEXT
    return RST if rst > markdown else MARKDOWN
