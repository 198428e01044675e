"""mdoc(7), the markup of BSD man pages: what a line of its macros reads as."""

from collections.abc import Sequence

from pharos.data.parsing.names import names

_ENCLOSING = {
    "Op": "[]",
    "Bq": "[]",
    "Pq": "()",
    "Brq": "{}",
    "Aq": "<>",
    "Dq": "“”",
    "Sq": "‘’",
    "Ql": "‘’",
    "Qq": '""',
    "Eo": "  ",
}
_OPENING = {"Oo": "[", "Bo": "[", "Po": "(", "Bro": "{", "Ao": "<", "Do": "“", "So": "‘", "Qo": '"'}
_CLOSING = {"Oc": "]", "Bc": "]", "Pc": ")", "Brc": "}", "Ac": ">", "Dc": "”", "Sc": "’", "Qc": '"'}
_SYSTEMS = {
    "Bx": "BSD",
    "Ux": "UNIX",
    "Nx": "NetBSD",
    "Fx": "FreeBSD",
    "Ox": "OpenBSD",
    "At": "AT&T UNIX",
}
_PLAIN = names(
    "Ad An Ar Cd Cm Dv Em Er Ev Fa Fd Ft Ic In Li Lk Ms Mt No Pa Sx Sy Tn Va Vt Nd Nm Fl Xr Fn Fo "
    "Fc Ns Ap Pf D1 Dl Rs Re Bf Ef Sm Xo Xc %A %B %D %I %J %N %O %P %Q %R %T %U %V St Ex Rv Lb"
)
_SILENT = names("Sm Bf Ef Rs Re Xc")
_STRUCTURE = names("Bl It El Bd Ed Dd Os")
_CLOSERS = names(". , : ; ) ] ? !")
_OPENERS = names("( [")


class Mdoc:
    """Remembers what a page is about (`.Nm`) and which lists are open."""

    def __init__(self) -> None:
        self.spaced = True  # `.Sm off` until `.Sm on`: no blanks between words
        self._name = ""
        self._lists: list[tuple[str, int]] = []

    def knows(self, macro: str) -> bool:
        return macro in _STRUCTURE or self._is_inline(macro)

    def begin_list(self, arguments: Sequence[str]) -> None:
        self._lists.append((arguments[0].lstrip("-") if arguments else "", 0))

    def end_list(self) -> None:
        if self._lists:
            self._lists.pop()

    def item(self, arguments: Sequence[str]) -> tuple[str, str]:
        """The tag of a list's next item, or else the marker before its text."""
        kind, number = self._lists[-1] if self._lists else ("", 0)
        if self._lists:
            self._lists[-1] = (kind, number + 1)
        if kind in ("bullet", "dash", "hyphen", "item"):
            return "", "-"
        if kind == "enum":
            return "", f"{number + 1}."
        if kind == "column":
            cells = " ".join(arguments).replace(" Ta ", "\t").split("\t")
            return " | ".join(self.line("No", cell.split()) for cell in cells), ""
        return self.line("No", arguments), ""

    def line(self, macro: str, arguments: Sequence[str]) -> str:
        """A line of text from a macro and its arguments, which may be macros themselves."""
        if macro == "Sm":
            self.spaced = "off" not in arguments
        if macro in ("Dd", "Os", *_SILENT):
            return ""
        out = _Line(spaced=self.spaced)
        tokens = [macro, *arguments]
        closing: list[str] = []
        trailing = ""
        while tokens[-1] in _CLOSERS and not _ENCLOSING.keys().isdisjoint(tokens):
            trailing = tokens.pop() + trailing
        position = 0
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if not self._is_inline(token):
                out.add(token)
                continue
            operands = self._operands(tokens, position)
            if token in _ENCLOSING:
                out.open(_ENCLOSING[token][0])
                closing.append(_ENCLOSING[token][1])
            elif self._set(out, token, operands):
                position += len(operands)
        for mark in reversed(closing):
            out.close(mark)
        return out.text + trailing

    def _is_inline(self, token: str) -> bool:
        return (
            token in _PLAIN
            or token in _ENCLOSING
            or token in _OPENING
            or token in _CLOSING
            or token in _SYSTEMS
        )

    def _operands(self, tokens: Sequence[str], position: int) -> list[str]:
        """The arguments up to the next macro or punctuation mark."""
        end = position
        while (
            end < len(tokens) and not self._is_inline(tokens[end]) and tokens[end] not in _CLOSERS
        ):
            end += 1
        return list(tokens[position:end])

    def _set(self, out: "_Line", macro: str, operands: list[str]) -> bool:
        """Writes one macro; false if its operands are still to be written as text."""
        if macro in _OPENING:
            out.open(_OPENING[macro])
        elif macro in _CLOSING:
            out.close(_CLOSING[macro])
        elif macro == "Ns":
            out.glue()
        elif macro == "Ap":
            out.close("'")
            out.glue()
        elif macro == "Pf":
            out.add("".join(operands[:1]))
            out.glue()
            for word in operands[1:]:
                out.add(word)
            return True
        else:
            for word in self._words(macro, operands):
                out.add(word)
            return True
        return False

    def _words(self, macro: str, operands: list[str]) -> list[str]:
        if macro == "Nm":
            self._name = self._name or " ".join(operands)
            return operands or [self._name]
        if macro in ("Xo", "Xc"):
            return operands
        if macro == "Nd":
            return ["—", *operands]
        if macro == "Fl":
            return [f"-{operand}" for operand in operands] or ["-"]
        if macro == "Ar":
            return operands or ["file", "..."]
        if macro in _SYSTEMS:
            return [_SYSTEMS[macro], *operands]
        if macro == "Xr" and len(operands) > 1:
            return [f"{operands[0]}({operands[1]})", *operands[2:]]
        if macro == "In":
            return [f"<{' '.join(operands)}>"]
        if macro in ("Fn", "Fo") and operands:
            return [
                f"{operands[0]}({', '.join(operands[1:])})" if macro == "Fn" else f"{operands[0]}("
            ]
        if macro == "Fc":
            return [")"]
        return operands


class _Line:
    """Words with blanks between them, except around punctuation and where glued."""

    def __init__(self, *, spaced: bool) -> None:
        self.text = ""
        self._spaced = spaced
        self._glued = True

    def add(self, word: str) -> None:
        if word in _CLOSERS:
            self.text += word
            self._glued = False
            return
        blank = "" if self._glued or not self._spaced or not word else " "
        self.text += blank + word
        self._glued = word in _OPENERS

    def open(self, mark: str) -> None:
        self.add(mark)
        self._glued = True

    def close(self, mark: str) -> None:
        self.text += mark
        self._glued = False

    def glue(self) -> None:
        self._glued = True
