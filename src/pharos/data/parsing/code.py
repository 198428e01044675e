"""Source code: every line as it is; definitions at the margin are its headings."""

import re
from pathlib import PurePath

from pharos.data.cleaning import clean_text
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Heading, Parsed, Raw

_COOKIE = re.compile(rb"coding[:=]\s*([-\w.]{1,40})")
_MODIFIER = (
    r"(?:(?:export|default|public|private|protected|internal|static|abstract|final|sealed|async|"
    r"unsafe|open|data|pub(?:\([^()]*\))?|const|extern|partial|override)\s+){0,6}"
)
_KEYWORD = (
    r"(?:class|interface|enum|struct|trait|impl|module|namespace|object|record|protocol|extension|"
    r"function\*?|func|fn|fun|def|sub|procedure|type|contract|message|service)"
)
_DEFINITION = re.compile(rf"{_MODIFIER}{_KEYWORD}\b\s+[^\s;][^\n]{{0,300}}")
_PYTHON = re.compile(r"(?P<indent> {4}|)(?:async\s+def|def|class)\s+\w+")
_C_FUNCTION = re.compile(
    r"[A-Za-z_][\w\s*&:<>,~]{0,200}?\b[\w:~]+\s*\([^;{}]{0,500}\)?\s*(?:const)?\s*\{?"
)
_SHELL_FUNCTION = re.compile(r"(?:function\s+[\w:.-]+\s*(?:\(\))?|[\w:.-]+\s*\(\))\s*\{?.*")
_SQL = re.compile(r"CREATE\s+(?:OR\s+REPLACE\s+)?\w+\s+[^\s(;].*", re.IGNORECASE)
_REMARK = re.compile(r"\s(?:#|//|/\*).*")
_SECTION = re.compile(r"\[{1,2}([^\[\]]{1,100})\]{1,2}")
_C_NOISE = re.compile(r"(?:if|else|for|while|switch|return|do|goto|case|default|typedef)\b")

_BY_SUFFIX = {
    ".py": _PYTHON,
    ".pyi": _PYTHON,
    ".sql": _SQL,
    ".toml": _SECTION,
    ".ini": _SECTION,
    ".cfg": _SECTION,
    ".conf": _SECTION,
}
_C_LIKE = {".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".m", ".cu", ".java", ".cs"}
_SHELL = {".sh", ".bash", ".zsh", ".ksh"}


def parse_code(raw: Raw) -> Parsed:
    cookie = _COOKIE.search(raw.data[:256])
    text = clean_text(decode(raw.data, cookie[1].decode("ascii") if cookie else None)).strip("\n")
    suffix = PurePath(raw.name).suffix.lower()
    headings = []
    start = 0
    for line in text.split("\n"):
        if found := _definition(line, suffix):
            headings.append(Heading(start=start, level=found[0], text=found[1]))
        start += len(line) + 1
    return Parsed(text=text, headings=headings, title=PurePath(raw.name).name)


def _definition(line: str, suffix: str) -> tuple[int, str] | None:
    """Level and text of the definition that a line opens, if it does."""
    if not line or len(line) > 400:
        return None
    if pattern := _BY_SUFFIX.get(suffix):
        match = pattern.match(line)
        inner = match is not None and bool(match.groupdict().get("indent"))
        return (2 if inner else 1, _name(line)) if match else None
    if line[0].isspace():
        return None
    matched = (
        _DEFINITION.match(line)
        or (suffix in _SHELL and _SHELL_FUNCTION.fullmatch(line))
        or (suffix in _C_LIKE and not _C_NOISE.match(line) and _C_FUNCTION.fullmatch(line))
    )
    return (1, _name(line)) if matched else None


def _name(line: str) -> str:
    """`class Foo(Bar):` as `class Foo(Bar)`."""
    return " ".join(_REMARK.sub("", line).strip().rstrip("({:;").split())
