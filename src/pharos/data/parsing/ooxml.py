"""What Word, PowerPoint and Excel files have in common: parts, relationships, properties."""

import posixpath
from dataclasses import dataclass

from pharos.data.parsing.archives import Archive
from pharos.data.parsing.xml import parse_xml, text_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Relationship:
    """`kind` is the last part of the relationship's type: `slide`, `notesSlide`, `styles`."""

    id: str
    kind: str
    target: str


def relationships(archive: Archive, part: str) -> list[Relationship]:
    """Where a part points to within the archive; what lies outside it is left out."""
    folder, name = posixpath.split(part)
    path = posixpath.join(folder, "_rels", name + ".rels")
    if path not in archive:
        return []
    found = []
    for element in parse_xml(archive.read(path), path).iterchildren("{*}Relationship"):
        target = element.get("Target", "")
        if element.get("TargetMode") == "External":
            continue
        target = target.lstrip("/") if target.startswith("/") else posixpath.join(folder, target)
        found.append(
            Relationship(
                id=element.get("Id", ""),
                kind=element.get("Type", "").rpartition("/")[2],
                target=posixpath.normpath(target),
            )
        )
    return found


def part_of_kind(archive: Archive, part: str, kind: str) -> str | None:
    """The first part of that kind which `part` points to and the archive holds."""
    targets = (r.target for r in relationships(archive, part) if r.kind == kind)
    return next((target for target in targets if target in archive), None)


def properties(archive: Archive) -> tuple[str, dict[str, str]]:
    """Title, and author and date as metadata."""
    path = "docProps/core.xml"
    if path not in archive:
        return "", {}
    root = parse_xml(archive.read(path), path)
    values = {"author": text_of(root, "creator"), "date": text_of(root, "modified")[:10]}
    return text_of(root, "title"), {key: value for key, value in values.items() if value}
