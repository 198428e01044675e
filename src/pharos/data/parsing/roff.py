"""The part of roff that man pages use: escapes, strings, conditionals and tables."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_GLYPHS = {
    **{"bu": "•", "em": "—", "en": "–", "hy": "-", "mi": "-", "mc": "µ", "co": "©", "rg": "®"},
    **{"lq": "“", "rq": "”", "oq": "‘", "cq": "’", "aq": "'", "dq": '"', "Fo": "«", "Fc": "»"},
    **{"tm": "™", "de": "°", "+-": "±", "mu": "×", "di": "÷", "ha": "^", "ti": "~", "rs": "\\"},
    **{"ga": "`", "aa": "´", "bv": "|", "ba": "|", "br": "|", "sl": "/", "ul": "_", "ru": "_"},
    **{"<-": "←", "->": "→", "<=": "≤", ">=": "≥", "!=": "≠", "==": "≡", "~~": "≈", "if": "∞"},
    **{"sq": "□", "ci": "○", "ct": "¢", "Po": "£", "Ye": "¥", "Eu": "€", "eu": "€", "sc": "§"},
    **{"ps": "¶", "dg": "†", "dd": "‡", "ss": "ß", "AE": "Æ", "ae": "æ", "OE": "Œ", "oe": "œ"},
    **{"/L": "Ł", "/l": "ł", "/O": "Ø", "/o": "ø", "oA": "Å", "oa": "å", "12": "½", "14": "¼"},
    **{"34": "¾", "S1": "¹", "S2": "²", "S3": "³", "no": "¬", "la": "⟨", "ra": "⟩", "lB": "["},
    **{"rB": "]", "lC": "{", "rC": "}", "sh": "#", "at": "@", "Do": "$", "ua": "↑", "da": "↓"},
    **{"*a": "α", "*b": "β", "*g": "γ", "*d": "δ", "*e": "ε", "*l": "λ", "*m": "μ", "*p": "π"},
    **{"*s": "σ", "*w": "ω", "*D": "Δ", "*S": "Σ", "*W": "Ω", "*F": "Φ", "*f": "φ", "sr": "√"},
    **{"fi": "fi", "fl": "fl", "ff": "ff", "Fi": "ffi", "Fl": "ffl", "nb": "⊄", "mo": "∈"},
}
_ACCENTS = {
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    ":": "\u0308",
    "~": "\u0303",
    ",": "\u0327",
}
_NOTHING = "\u200b"  # `\&` prints nothing, but `\&.` is no punctuation; cleaning drops it
INTERRUPTED = "\u2060"  # `\c` at the end of a line: the next one follows without a blank
_SINGLE = {
    **{"-": "-", "e": "\\", "\\": "\\", "~": " ", " ": " ", "0": " ", "t": "\t"},
    **{"'": "´", "`": "`", "&": _NOTHING, "c": INTERRUPTED},
}
_STRINGS = {
    **{"lq": "“", "rq": "”", "Tm": "™", "R": "®", "Aq": "'", 'L"': "“", 'R"': "”", "Am": "&"},
    **{"Gt": ">", "Lt": "<", "Ge": "≥", "Le": "≤", "Ne": "≠", "Ba": "|", "Pi": "π", "Pm": "±"},
}

_NAME = r"(?:\[(?P<{0}long>[^\]\n]{{0,100}})\]|\((?P<{0}two>..)|(?P<{0}one>.))"
_ESCAPE = re.compile(
    r"\\(?:"
    r"\*" + _NAME.format("string") + r"|[fFmMnkgOPY](?:[-+]?\[[^\]\n]{0,100}\]|[-+]?\(..|[-+]?.)"
    r"|s(?:\[[^\]\n]{0,20}\]|[-+]?\(\d\d|[-+]?[1-3]\d|[-+]?\d|'[^'\n]{0,20}')"
    r"|(?P<space>h)'[^'\n]{0,100}'|[vwlLDoNXAZbBCRSxH]'[^'\n]{0,200}'"
    r"|\[(?P<long>[^\]\n]{0,100})\]|\((?P<two>..)|(?P<comment>[\"#].*)|(?P<one>.)|$)"
)
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
_COMMENT = re.compile(r'\\".*')
_CONTROL = re.compile(r"[.'][ \t]*(\S*)[ \t]*(.*)", re.DOTALL)
_CONDITION = re.compile(
    r"(!?)(\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)|'[^'\n]*'[^'\n]*'|"
    r'"[^"\n]*"[^"\n]*"|\S+)[ \t]*(.*)'
)


@dataclass(frozen=True, slots=True)
class Request:
    """A line of roff: a macro with its arguments (escapes resolved), or text with the name ''."""

    name: str
    arguments: tuple[str, ...] = ()
    text: str = ""


class Roff:
    """Reads the lines of a page one request at a time."""

    def __init__(self, source: str) -> None:
        self._lines = iter(re.sub(r"\\\n", "", source).split("\n"))
        self._strings = dict(_STRINGS)
        self._last_condition = False

    def requests(self) -> Iterator[Request]:
        """Everything that is to be set, in order; definitions and conditions are dealt with."""
        for line in self._lines:
            yield from self._read(line)

    def plain(self, text: str) -> str:
        """Text with its escapes resolved."""
        return _ESCAPE.sub(self._replacement, text) if "\\" in text else text

    def _read(self, line: str) -> Iterator[Request]:
        if not line:
            yield Request("")
        while line:
            line = line.replace("\\}", "") if line.startswith((".", "'", "\\}")) else line
            match = _CONTROL.fullmatch(line)
            if match is None:
                yield Request("", text=self.plain(line))
                return
            name, rest = match[1], match[2]
            if name in ("if", "ie", "el"):
                line = self._conditional(name, rest)
                continue
            if not self._handled(name, rest):
                yield Request(name, self._arguments(rest), self.plain(rest))
            return

    def _handled(self, name: str, rest: str) -> bool:
        """Deals with what prints nothing."""
        if name in ("de", "de1", "dei", "am", "ig"):
            words = _COMMENT.sub("", rest).split()
            ending = words[-1] if len(words) > (0 if name == "ig" else 1) else "."
            self._skip_to(ending)
            return True
        if name in ("ds", "as"):
            key, _, value = rest.partition(" ")
            value = self.plain(value.lstrip().removeprefix('"'))
            known = self._strings.get(key, "") if name == "as" else ""
            self._strings[key] = (known + value)[:10_000]
            return True
        return name == "" or name.startswith(("\\", '"'))

    def _skip_to(self, ending: str) -> None:
        for line in self._lines:
            if line.startswith(".") and line[1:].strip() == ending:
                return

    def _conditional(self, name: str, rest: str) -> str:
        """The line that remains when a condition holds; skips the block when it does not."""
        holds = not self._last_condition
        if name != "el":
            match = _CONDITION.fullmatch(rest)
            if match is None:
                return ""
            holds = _holds(match[2]) != bool(match[1])
            rest = match[3]
        self._last_condition = holds or name == "if"
        opened = rest.count("\\{")
        rest = rest.replace("\\{", "").strip()
        if holds:
            return rest
        depth = opened - rest.count("\\}")
        while depth > 0 and (line := next(self._lines, None)) is not None:
            depth += line.count("\\{") - line.count("\\}")
        return ""

    def _arguments(self, rest: str) -> tuple[str, ...]:
        rest = _COMMENT.sub("", rest)
        found = (
            m[2] if m[1] is None else m[1].replace('""', '"')
            for m in _ARGUMENT.finditer(rest.replace("\\ ", "\\~"))
        )
        return tuple(self.plain(argument) for argument in found)

    def _replacement(self, match: re.Match[str]) -> str:
        string = match["stringlong"] or match["stringtwo"] or match["stringone"]
        if string:
            return self._strings.get(string, "")
        if glyph := match["long"] or match["two"]:
            return _glyph(glyph)
        if match["space"]:
            return " "
        return _SINGLE.get(match["one"] or "", "")


def _glyph(name: str) -> str:
    if name in _GLYPHS:
        return _GLYPHS[name]
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    if re.fullmatch(r"u[0-9A-F]{4,6}", name) and int(name[1:], 16) < 0x110000:
        return chr(int(name[1:], 16))
    return ""


def _holds(condition: str) -> bool:
    """We are nroff (`n`) and as able as groff (`\\n(.g`)."""
    return condition in ("n", "\\n(.g", "\\n[.g]", "1", "(\\n(.g)")


def table_rows(lines: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a tbl table, from the lines between `.TS` and `.TE`."""
    separator = "\t"
    start = 0
    for i, line in enumerate(lines):
        if line.rstrip().endswith(";") and (match := re.search(r"tab\s*\((.)\)", line)):
            separator = match[1]
        if line.rstrip().endswith("."):
            start = i + 1
            break
    block: list[str] | None = None
    cells: list[str] = []
    for line in lines[start:]:
        if block is not None:
            if not line.startswith("T}"):
                block.append(line)
                continue
            cells.append(" ".join(block))
            block, line = None, line[2:].removeprefix(separator)
            if not line:
                yield cells
                cells = []
                continue
        elif line.strip() in ("_", "=", "") or line.startswith("."):
            continue
        parts = line.split(separator)
        if parts[-1].strip() == "T{":
            cells.extend(parts[:-1])
            block = []
        else:
            yield [*cells, *parts]
            cells = []
