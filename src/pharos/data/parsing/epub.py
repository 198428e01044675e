"""EPUB: the chapters in reading order, each an HTML page."""

import posixpath
from urllib.parse import unquote

from lxml import etree

from pharos.core import DocumentError
from pharos.data.parsing.archives import Archive
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.html import html_parsed
from pharos.data.parsing.xml import parse_xml, text_of

_CONTAINER = "META-INF/container.xml"
_HTML_TYPES = ("application/xhtml+xml", "text/html")


def parse_epub(raw: Raw) -> Parsed:
    with Archive(raw.data, raw.limits) as archive:
        if "META-INF/encryption.xml" in archive and "META-INF/rights.xml" in archive:
            raise DocumentError("is encrypted (DRM); only EPUB files without it can be read")
        package_name = _package_name(archive)
        package = parse_xml(archive.read(package_name), package_name)
        draft = Draft(raw.limits)
        for name in _chapters(package, posixpath.dirname(package_name)):
            if name in archive:
                draft.embed(html_parsed(decode(archive.read(name)), raw.limits))
    title = text_of(package, "title")
    metadata = {"author": text_of(package, "creator"), "date": text_of(package, "date")}
    return draft.finish(title=title, metadata={k: v for k, v in metadata.items() if v})


def _package_name(archive: Archive) -> str:
    container = parse_xml(archive.read(_CONTAINER), _CONTAINER)
    for rootfile in container.iter("{*}rootfile"):
        if path := rootfile.get("full-path"):
            return str(path)
    raise DocumentError(f"is damaged: {_CONTAINER} names no package")


def _chapters(package: etree._Element, folder: str) -> list[str]:
    """The names of the pages in the order of the spine; the table of contents is not one."""
    pages = {
        item.get("id"): posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        for item in package.iter("{*}item")
        if item.get("media-type") in _HTML_TYPES and "nav" not in item.get("properties", "").split()
    }
    spine = [item.get("idref") for item in package.iter("{*}itemref")]
    return [pages[idref] for idref in dict.fromkeys(spine) if idref in pages]
