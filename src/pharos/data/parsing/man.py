"""Man pages, in man(7) and mdoc(7): sections, options with what they do, examples as they are."""

import re
from collections.abc import Callable

from pharos.core import DocumentError
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.mdoc import Mdoc
from pharos.data.parsing.names import names
from pharos.data.parsing.roff import INTERRUPTED, Request, Roff, table_rows
from pharos.data.parsing.tabular import add_table

_CODING = re.compile(rb"-\*-.{0,40}?coding:\s*([-\w]{1,30})")
_PARAGRAPH = names("PP P LP HP Pp Lp sp RS RE IX in")
_BREAK = names("br ti ce")
_ALTERNATING = names("BR BI IB IR RB RI")
_EMPHASIS = names("B I SM SB CW R")
_UNFILLED = names("nf EX Vb")
_FILLED = names("fi EE Ve")


def parse_man(raw: Raw) -> Parsed:
    declared = _CODING.search(raw.data[:200])
    source = decode(raw.data, declared[1].decode("ascii") if declared else None)
    page = _Page(Draft(raw.limits), Roff(source.replace("\r\n", "\n")))
    page.read()
    if page.pointer and page.is_blank:
        raise DocumentError(f"only points to another page, {page.pointer}")
    return page.draft.finish(title=page.title, metadata=page.metadata)


class _Page:
    """Collects lines into paragraphs; a tagged paragraph stands right below its tag."""

    def __init__(self, draft: Draft, roff: Roff) -> None:
        self.draft = draft
        self.title = ""
        self.metadata: dict[str, str] = {}
        self.pointer = ""
        self.is_blank = True
        self._roff = roff
        self._requests = roff.requests()
        self._mdoc = Mdoc()
        self._lines: list[str] = []
        self._filled = True
        self._tight = False
        self._awaits: Callable[[str], None] | None = None  # what the next line of text is for
        self._glue = False  # the next text follows without a blank
        self._unspaced = 0  # lines since `.Sm off`
        self._address = ""
        self._section = ""

    def read(self) -> None:
        for request in self._requests:
            self._take(request)
        self._end_paragraph()

    def _take(self, request: Request) -> None:
        name, arguments = request.name, request.arguments
        if name == "":
            self._text(request.text)
        elif name in _PARAGRAPH:
            self._end_paragraph()
        elif name in _BREAK:
            self._lines.append("")
        elif name in _EMPHASIS:
            self._text(" ".join(arguments)) if arguments else None
        elif name in _ALTERNATING:
            self._text("".join(arguments))
        elif name in _UNFILLED or name in _FILLED:
            self._end_paragraph(tight=self._tight)
            self._filled = name in _FILLED
        elif (handler := _HANDLERS.get(name)) is not None:
            handler(self, arguments)
        elif self._mdoc.knows(name):
            self._mdoc_line(name, arguments)

    # --- text ------------------------------------------------------------------------------

    def _text(self, text: str) -> None:
        if self._awaits is not None and text.strip():
            purpose, self._awaits = self._awaits, None
            purpose(text)
        elif not text.strip() and self._filled:
            self._end_paragraph()
        elif self._glue and self._lines:
            self._lines[-1] += text
        else:
            self._lines.append(text)
        self._glue = text.endswith(INTERRUPTED)

    def _end_paragraph(self, *, tight: bool = False) -> None:
        if self._filled:
            runs = "\n".join(self._lines).split("\n\n")
            text = "\n".join(" ".join(run.split()) for run in runs).strip()
        else:
            text = "\n".join(self._lines).strip("\n")
        self._lines = []
        if text.strip():
            self.is_blank = False
            self.draft.add(text, separator="\n" if self._tight else "\n\n")
            self._tight = tight

    # --- requests --------------------------------------------------------------------------

    def _begin_page(self, arguments: tuple[str, ...]) -> None:
        name, section, date, *_ = (*arguments, "", "", "")
        self.title = f"{name.lower() if name.isupper() else name}({section})" if section else name
        if date:
            self.metadata["date"] = date

    def _heading(self, arguments: tuple[str, ...], level: int) -> None:
        self._end_paragraph()
        self._tight, self._filled = False, True
        self._section = " ".join(arguments)
        if arguments:
            self.draft.add_heading(" ".join(arguments), level)
        else:
            self._awaits = lambda text: self.draft.add_heading(text, level)

    def _tag_follows(self, _: tuple[str, ...]) -> None:
        """`.TP`: the next line is the tag; `.TQ`: one more tag."""
        self._end_paragraph()
        self._awaits = self._tag

    def _tag(self, text: str) -> None:
        self.is_blank = False
        self.draft.add(" ".join(text.split()), separator="\n" if self._tight else "\n\n")
        self._tight = True

    def _further_tag(self, _: tuple[str, ...]) -> None:
        self._end_paragraph(tight=True)
        self._tight, self._awaits = True, self._tag

    def _indented(self, arguments: tuple[str, ...]) -> None:
        self._end_paragraph()
        tag = arguments[0].strip() if arguments else ""
        if tag in ("•", "-", "*", "o", "·"):
            self._lines.append("- ")
        elif re.fullmatch(r"\(?\[?\d{1,3}[.)\]]*", tag):
            self._lines.append(tag)
        elif tag:
            self._tag(tag)

    def _link(self, arguments: tuple[str, ...]) -> None:
        self._address = arguments[0] if arguments else ""

    def _end_link(self, arguments: tuple[str, ...]) -> None:
        after = arguments[0] if arguments else ""
        if self._address:
            self._text(f"<{self._address}>{after}")
        self._address = ""

    def _option(self, arguments: tuple[str, ...]) -> None:
        self._text(f"[{' '.join(arguments)}]")

    def _reference(self, arguments: tuple[str, ...]) -> None:
        page, section, after = (*arguments, "", "", "")[:3]
        self._text(f"{page}({section}){after}" if section else page)

    def _points_to(self, arguments: tuple[str, ...]) -> None:
        self.pointer = arguments[0] if arguments else "(unnamed)"

    def _table(self, _: tuple[str, ...]) -> None:
        self._end_paragraph()
        lines: list[str] = []
        for request in self._requests:
            if request.name == "TE":
                break
            lines.append(request.text if not request.name else " ".join(request.arguments))
        self.is_blank = False
        add_table(self.draft, table_rows(lines))

    def _skip_to(self, ending: str) -> None:
        for request in self._requests:
            if request.name == ending:
                return

    # --- mdoc ------------------------------------------------------------------------------

    def _mdoc_line(self, name: str, arguments: tuple[str, ...]) -> None:
        if name == "It":
            self._item(arguments)
        elif name in ("Bl", "El"):
            self._end_paragraph()
            self._mdoc.begin_list(arguments) if name == "Bl" else self._mdoc.end_list()
        elif name in ("Bd", "Ed"):
            self._end_paragraph()
            literal = "-literal" in arguments or "-unfilled" in arguments
            self._filled = name == "Ed" or not literal
        else:
            line = self._mdoc.line(name, arguments)
            self._unspaced = 0 if name == "Sm" or self._mdoc.spaced else self._unspaced + 1
            self._glue = self._glue or self._unspaced > 1
            if name == "Nm" and self._section == "SYNOPSIS":
                self._lines.append("")
            if name in ("D1", "Dl"):
                self._end_paragraph()
                self.draft.add(line)
            elif line:
                self._text(line)

    def _item(self, arguments: tuple[str, ...]) -> None:
        self._end_paragraph()
        tag, marker = self._mdoc.item(arguments)
        if "Xo" in arguments:
            tag += self._extension()
        if marker:
            self._lines.append(marker)
        elif tag:
            self._tag(tag)

    def _extension(self) -> str:
        """The rest of a tag that goes on to the line `.Xc`."""
        text = ""
        for request in self._requests:
            if request.name == "Xc":
                break
            line = request.text
            if request.name and self._mdoc.knows(request.name):
                line = self._mdoc.line(request.name, request.arguments)
            text += (" " if self._mdoc.spaced or not text else "") + line
        return text


_HANDLERS: dict[str, Callable[[_Page, tuple[str, ...]], None]] = {
    "TH": _Page._begin_page,
    "Dt": _Page._begin_page,
    "SH": lambda page, arguments: page._heading(arguments, 1),
    "Sh": lambda page, arguments: page._heading(arguments, 1),
    "SS": lambda page, arguments: page._heading(arguments, 2),
    "Ss": lambda page, arguments: page._heading(arguments, 2),
    "TP": _Page._tag_follows,
    "TQ": _Page._further_tag,
    "IP": _Page._indented,
    "UR": _Page._link,
    "MT": _Page._link,
    "UE": _Page._end_link,
    "ME": _Page._end_link,
    "OP": _Page._option,
    "SY": lambda page, arguments: page._text(" ".join(arguments)),
    "MR": _Page._reference,
    "so": _Page._points_to,
    "TS": _Page._table,
    "EQ": lambda page, _: page._skip_to("EN"),
    "PS": lambda page, _: page._skip_to("PE"),
}
