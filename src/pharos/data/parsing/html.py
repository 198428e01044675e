"""HTML: what a reader came for, without the page around it."""

import re
from collections.abc import Sequence

from lxml import etree

from pharos.data.cleaning import clean_line
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.html_walk import ARTICLE, ELSEWHERE, MAIN, Block, Walker
from pharos.data.parsing.limits import ParseLimits

_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([-\w.:]{1,40})""", re.IGNORECASE)
_AUTHORS = ("author", "article:author", "dc.creator", "citation_author")
_DATES = ("date", "article:published_time", "dc.date", "dcterms.date", "last-modified")
_MAIN_SHARE = 0.25


def parse_html(raw: Raw) -> Parsed:
    declared = _CHARSET.search(raw.data[:4096])
    return html_parsed(
        decode(raw.data, declared[1].decode("ascii") if declared else None), raw.limits
    )


def html_parsed(source: str, limits: ParseLimits) -> Parsed:
    """The text of a page. Boilerplate is dropped unless there is nothing else."""
    walker = _walk(source, limits)
    if not walker.blocks:
        walker = _walk(source, limits, keep_furniture=True)
    draft = Draft(limits)
    for block in _document(walker.blocks):
        _add(draft, block)
    title = clean_line(walker.title)
    parsed = draft.finish(title=title, metadata=_metadata(walker.meta))
    first = parsed.headings[0].text if parsed.headings else ""
    if first and first.casefold() in title.casefold():  # "First heading - Name of the site"
        return draft.finish(title=first, metadata=parsed.metadata)
    return parsed


def _walk(source: str, limits: ParseLimits, *, keep_furniture: bool = False) -> Walker:
    walker = Walker(limits, keep_furniture=keep_furniture)
    parser = etree.HTMLParser(target=walker, huge_tree=True, no_network=True)
    for start in range(0, len(source), 1 << 20):
        parser.feed(source[start : start + (1 << 20)])
    if source.strip():
        parser.close()
    return walker


def _document(blocks: Sequence[Block]) -> Sequence[Block]:
    """The blocks of `<main>`, or else of the articles, if they hold a good part of the text."""
    total = sum(len(block.text) for block in blocks)
    for place in (MAIN, ARTICLE):
        chosen = [block for block in blocks if block.place >= place]
        if chosen and sum(len(block.text) for block in chosen) >= _MAIN_SHARE * total:
            return chosen
    return [block for block in blocks if block.place >= ELSEWHERE]


def _add(draft: Draft, block: Block) -> None:
    if block.kind == "heading":
        draft.add_heading(block.text, block.level)
    else:
        draft.add(block.text, separator="\n" if block.tight else "\n\n")


def _metadata(meta: dict[str, str]) -> dict[str, str]:
    author = next((meta[key] for key in _AUTHORS if key in meta), "")
    date = next((meta[key] for key in _DATES if key in meta), "")
    found = {"author": clean_line(author), "date": clean_line(date)}
    return {key: value for key, value in found.items() if value}
