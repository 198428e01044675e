"""A DOCX file's styles and numbering: which paragraph is a heading, and `2.1` before it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lxml import etree

from pharos.data.parsing.archives import Archive
from pharos.data.parsing.xml import attribute, child, parse_xml

_HEADING_NAME = re.compile(r"heading ([1-9])", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"%([1-9])")
_BODY_LEVEL = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """`level` of a heading (the title has 0); `numbering` is a list's id and the level in it."""

    level: int | None = None
    numbering: tuple[str, int] | None = None

    def overridden_by(self, settings: etree._Element | None) -> "Style":
        """This style with the outline level and numbering of some paragraph settings (`w:pPr`)."""
        style = self
        outline = attribute(child(settings, "outlineLvl"), "val")
        if outline is not None and outline.isdigit():
            level = int(outline)
            style = replace(style, level=level + 1 if level < _BODY_LEVEL else None)
        numbers = child(settings, "numPr")
        if numbers is not None:
            list_id = attribute(child(numbers, "numId"), "val")
            level_text = attribute(child(numbers, "ilvl"), "val") or "0"
            list_id = list_id or (self.numbering[0] if self.numbering else "0")
            list_level = min(int(level_text), 8) if level_text.isdigit() else 0
            style = replace(style, numbering=None if list_id == "0" else (list_id, list_level))
        return style


def read_styles(archive: Archive, path: str | None) -> dict[str, Style]:
    """The paragraph styles by id, each with what it inherits."""
    if path is None:
        return {}
    elements = {
        attribute(element, "styleId") or "": element
        for element in parse_xml(archive.read(path), path).iterchildren("{*}style")
    }
    return {style_id: _resolved(style_id, elements) for style_id in elements}


def _resolved(style_id: str, elements: Mapping[str, etree._Element]) -> Style:
    lineage: list[etree._Element] = []
    current = style_id
    while current in elements and elements[current] not in lineage and len(lineage) < 20:
        lineage.append(elements[current])
        current = attribute(child(elements[current], "basedOn"), "val") or ""
    style = Style()
    for element in reversed(lineage):
        name = attribute(child(element, "name"), "val") or ""
        if match := _HEADING_NAME.fullmatch(name):
            style = replace(style, level=int(match[1]))
        elif name.lower() == "title":
            style = replace(style, level=0)
        style = style.overridden_by(child(element, "pPr"))
    return style


@dataclass(frozen=True, slots=True)
class _Level:
    style: str
    pattern: str
    start: int


class Numbering:
    """Counts the items of every list as Word does and writes their labels."""

    def __init__(self, lists: Mapping[str, Mapping[int, _Level]]) -> None:
        self._lists = lists
        self._counters: dict[str, list[int]] = {}

    def label(self, list_id: str, level: int) -> str:
        """`- `, `3. ` or `2.1 ` for the next item of a list."""
        levels = self._lists.get(list_id, {})
        current = levels.get(level)
        if current is None or current.style == "bullet":
            return "- "
        counters = self._counters.setdefault(list_id, [])
        del counters[level + 1 :]
        while len(counters) <= level:
            outer = levels.get(len(counters))
            start = outer.start if outer is not None else 1
            counters.append(start - 1 if len(counters) == level else start)
        counters[level] += 1
        if current.style == "none":
            return ""
        return (
            _PLACEHOLDER.sub(lambda m: _numeral(levels, counters, int(m[1]) - 1), current.pattern)
            + " "
        )


def _numeral(levels: Mapping[int, _Level], counters: list[int], level: int) -> str:
    if level >= len(counters):
        return ""
    number, style = counters[level], levels[level].style if level in levels else "decimal"
    if style in ("lowerLetter", "upperLetter") and 1 <= number <= 26:
        letter = chr(ord("a") + number - 1)
        return letter if style == "lowerLetter" else letter.upper()
    if style in ("lowerRoman", "upperRoman") and 1 <= number < 40:
        roman = "x" * (number // 10) + _ROMAN[number % 10]
        return roman if style == "lowerRoman" else roman.upper()
    return str(number)


_ROMAN = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")


def read_numbering(archive: Archive, path: str | None) -> Numbering:
    """The lists that a document defines."""
    if path is None:
        return Numbering({})
    root = parse_xml(archive.read(path), path)
    templates = {
        attribute(element, "abstractNumId"): _levels(element)
        for element in root.iterchildren("{*}abstractNum")
    }
    return Numbering(
        {
            attribute(element, "numId") or "": templates.get(
                attribute(child(element, "abstractNumId"), "val"), {}
            )
            for element in root.iterchildren("{*}num")
        }
    )


def _levels(template: etree._Element) -> dict[int, _Level]:
    found = {}
    for element in template.iterchildren("{*}lvl"):
        number = attribute(element, "ilvl") or "0"
        start = attribute(child(element, "start"), "val") or "1"
        if number.isdigit() and start.isdigit():
            found[int(number)] = _Level(
                style=attribute(child(element, "numFmt"), "val") or "decimal",
                pattern=attribute(child(element, "lvlText"), "val") or "",
                start=int(start),
            )
    return found
