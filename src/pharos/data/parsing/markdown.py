"""Markdown: the source's text, readable as it is, less pictures, badges, comments and HTML tags.

Headings are `#` lines and underlined lines outside fenced code, and `<h1>` to `<h6>` within a
line. What `[text](address)` links to is kept: it may be what someone asks for.
"""

import re
from collections.abc import Iterator

from pharos.data.cleaning import clean_line, clean_text, squeeze_blank_lines
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Heading, Parsed, Raw

_FENCE = re.compile(r"\s*(?:[-*+>]\s+)?(`{3,}|~{3,})[^`]*")
_ATX = re.compile(r" {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*")
_SETEXT = re.compile(r" {0,3}(?:(=+)|(-{2,}))")
_NOT_A_TITLE = re.compile(r"\s*(?:[-*+>|]|\d+[.)]\s|#| {4}|$)")
_FRONT_MATTER = re.compile(r"---\n(.{0,20000}?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FIELD = re.compile(r"(title|author|date|description):\s*(\S.*)", re.IGNORECASE)

_TAGS = (
    "a|abbr|align|b|blockquote|br|center|code|dd|del|details|div|dl|dt|em|figcaption|figure|font|"
    "h[1-6]|hr|i|img|ins|kbd|li|ol|p|picture|pre|small|source|span|strong|sub|summary|sup|svg|"
    "table|tbody|td|tfoot|th|thead|tr|tt|u|ul|video"
)
_TARGET = r"(?:\([^()\n]{0,1000}(?:\([^()\n]*\)[^()\n]*)?\)|\[[^\[\]\n]{0,200}\])"
_IMAGE = r"!\[(?P<alt>[^\[\]]{0,300})\]" + _TARGET
_BADGE = r"\[\s*" + _IMAGE.replace("?P<alt>", "") + r"\s*\]" + _TARGET
_MARKS = re.compile(
    rf"(?P<code>^(?: {{4}}|\t)(?!\s*(?:<|!?\[!))[^\n]*$|`[^`\n]+`)"
    rf"|<h(?P<level>[1-6])\b[^<>]{{0,500}}>(?P<title>[^\n]{{0,500}}?)</h[1-6]>"
    rf"|(?P<badge>{_BADGE}[ \t]*)|(?P<image>{_IMAGE})"
    rf"|(?P<tag>(?:^[ \t]+)?</?(?:{_TAGS})\b[^<>]{{0,2000}}>)"
    rf"|(?P<contents>^\s*(?:[-*+]|\d+[.)])\s*\[[^\[\]\n]{{1,300}}\]\(#[^()\n]{{0,300}}\)\s*$)",
    re.MULTILINE | re.IGNORECASE,
)
_COMMENT = re.compile(r"^[ \t]*<!--", re.MULTILINE)
_INLINE_LINK = re.compile(r"\[([^\[\]\n]{0,300})\]" + _TARGET)
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|~~|`+)(?=\S)(.{1,300}?)(?<=\S)\1(?!\w)")
_ANCHOR = re.compile(r"\s*\{#?[^{}]{1,100}\}\s*$")


def parse_markdown(raw: Raw) -> Parsed:
    return markdown_parsed(decode(raw.data))


def markdown_parsed(source: str) -> Parsed:
    source, metadata = _front_matter(clean_text(source))
    pieces = (
        text if fenced else _MARKS.sub(_mend, _without_comments(text))
        for fenced, text in _pieces(source)
    )
    text = squeeze_blank_lines("\n".join(line.rstrip() for line in "\n".join(pieces).split("\n")))
    title = metadata.pop("title", "")
    return Parsed(text=text, headings=list(_headings(text)), title=title, metadata=metadata)


def _front_matter(text: str) -> tuple[str, dict[str, str]]:
    """The text after a YAML header, and the fields of it that are of use."""
    text = text.lstrip("\n")
    match = _FRONT_MATTER.match(text)
    if match is None:
        return text, {}
    fields = (_FIELD.fullmatch(line) for line in match[1].split("\n"))
    values = {field[1].lower(): field[2].strip("\"' ") for field in fields if field is not None}
    return text[match.end() :], values


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """The text in stretches of lines, each with whether it is fenced code (fences included)."""
    fence = ""
    lines: list[str] = []
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line)
        if fence:
            lines.append(line)
            if match is not None and match[1].startswith(fence):
                yield True, "\n".join(lines)
                fence, lines = "", []
        elif match is not None:
            yield False, "\n".join(lines)
            fence, lines = match[1], [line]
        else:
            lines.append(line)
    yield bool(fence), "\n".join(lines)


def _without_comments(text: str) -> str:
    """Drops HTML comments that begin a line."""
    kept: list[str] = []
    position = 0
    while (comment := _COMMENT.search(text, position)) is not None:
        end = text.find("-->", comment.end())
        if end < 0:
            break
        kept.append(text[position : comment.start()])
        position = end + len("-->")
    return "".join(kept) + text[position:]


def _mend(match: re.Match[str]) -> str:
    if match["code"]:
        return match["code"]
    if match["level"]:
        return f"\n\n{'#' * int(match['level'])} {_plain(match['title'])}\n\n"
    if match["image"]:
        return match["alt"]
    return ""


def _headings(text: str) -> Iterator[Heading]:
    start = 0
    for fenced, piece in _pieces(text):
        lines = piece.split("\n")
        for i, line in enumerate(lines):
            after = lines[i + 1] if i + 1 < len(lines) else ""
            if not fenced and (found := _heading(line, after, lines[i - 1] if i else "")):
                yield Heading(start=start, level=found[0], text=found[1])
            start += len(line) + 1


def _heading(line: str, after: str, before: str) -> tuple[int, str] | None:
    if match := _ATX.fullmatch(line):
        title = _plain(match[2] or "")
        return (len(match[1]), title) if title else None
    underline = _SETEXT.fullmatch(after)
    if underline is None or before.strip() or _NOT_A_TITLE.match(line):
        return None
    return (1 if underline[1] else 2), _plain(line)


def _plain(text: str) -> str:
    """A heading as a reader sees it."""
    text = _INLINE_LINK.sub(r"\1", _MARKS.sub(lambda m: m["code"] or m["alt"] or "", text))
    return clean_line(_EMPHASIS.sub(r"\2", _ANCHOR.sub("", text)))
