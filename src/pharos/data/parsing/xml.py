"""XML from untrusted archives: no entities, no network, whole or as a stream of elements."""

import io
from collections.abc import Iterator

from lxml import etree

from pharos.core import DocumentError


def parse_xml(data: bytes, name: str) -> etree._Element:
    """The root of an XML file. Raises DocumentError if it is damaged or defines entities."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise _damaged(name, error) from error
    _check_no_entities(root.getroottree(), name)
    return root


def stream_xml(
    data: bytes, name: str, *tags: str, starts: bool = False
) -> Iterator[tuple[str, str, etree._Element]]:
    """`("start" | "end", local name, element)` for every element of one of the local names
    `tags`; "start" only if asked for. Whoever reads the stream discards the elements it is done
    with. Raises DocumentError as `parse_xml` does."""
    context = etree.iterparse(
        io.BytesIO(data),
        events=("start", "end") if starts else ("end",),
        tag=[f"{{*}}{tag}" for tag in tags],
        resolve_entities=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
    )
    checked = False
    try:
        for event, element in context:
            if not checked:
                _check_no_entities(element.getroottree(), name)
                checked = True
            yield event, local_name(element), element
    except etree.XMLSyntaxError as error:
        raise _damaged(name, error) from error


def discard(element: etree._Element) -> None:
    """Frees an element of a stream, and what stands before it in its parent."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def local_name(element: etree._Element) -> str:
    """The name of an element without its namespace (Office writes each in two)."""
    return str(element.tag).rpartition("}")[2]


def attribute(element: etree._Element | None, name: str) -> str | None:
    """An attribute by its local name."""
    if element is None:
        return None
    for key, value in element.attrib.items():
        if str(key).rpartition("}")[2] == name:
            return str(value)
    return None


def child(element: etree._Element | None, *path: str) -> etree._Element | None:
    """The first descendant along a path of local names."""
    for name in path:
        if element is None:
            return None
        element = next(element.iterchildren("{*}" + name), None)
    return element


def text_of(root: etree._Element, tag: str) -> str:
    """The text of the first element of that local name; empty if there is none."""
    element = next(root.iter("{*}" + tag), None)
    return "" if element is None else "".join(element.itertext()).strip()


def _check_no_entities(tree: etree._ElementTree, name: str) -> None:
    dtd = tree.docinfo.internalDTD
    if dtd is not None and next(iter(dtd.iterentities()), None) is not None:
        raise DocumentError(f"is refused: {name!r} defines XML entities, which can hide a bomb")


def _damaged(name: str, error: etree.XMLSyntaxError) -> DocumentError:
    return DocumentError(f"is damaged: {name!r} is not well-formed XML: {error.msg}")
