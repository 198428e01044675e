"""How models write the calls of functions, and how such text is read again.

Hermes, Qwen   <tool_call>{"name": …, "arguments": {…}}</tool_call>, text before it, several
Mistral        [TOOL_CALLS] [{"name": …, "arguments": {…}}, …], or name[ARGS]{…}, to the end
Llama 3        {"name": …, "parameters": {…}}; …, as the whole text

Text is passed on as it comes; where it may be the beginning of a call it is held back, and a call
is given out when it is complete. What looks like one and is none is text after all: nothing that a
model writes is lost.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionCall:
    """`arguments` are JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """`openers` begin a call and `closer` ends it (None: the end of the text). Some formats begin
    nowhere but `at_start`. `read` makes calls of what is between, or raises ValueError."""

    name: str
    openers: tuple[str, ...]
    closer: str | None
    at_start: bool
    read: Callable[[str], list[FunctionCall]]
    arguments_key: str = "arguments"


class ToolCallReader:
    """`push` pieces of a text, then `flush`: pieces of text and calls, in order. Calls of functions
    other than `functions` are text. Blanks around calls are dropped."""

    def __init__(self, format_: ToolFormat, functions: Collection[str]) -> None:
        self._format = format_
        self._functions = frozenset(functions)
        self._held = ""
        self._blanks = ""
        self._is_inside = False
        self._is_text = False
        self._has_called = False

    def push(self, piece: str) -> Iterator[str | FunctionCall]:
        self._held += piece
        while True:
            if self._is_inside:
                end = self._end_of_call()
                if end is None:
                    return
                yield from self._closed(self._take(end))
            else:
                at = self._opener_at()
                sure = len(self._held) - self._uncertain() if at is None else at
                yield from self._text(self._take(sure))
                if at is None:
                    return
                self._is_inside = True

    def flush(self) -> Iterator[str | FunctionCall]:
        """What is left at the end of a text."""
        held = self._take(len(self._held))
        yield from self._closed(held) if self._is_inside else self._text(held)
        if self._blanks and not self._has_called:
            yield self._blanks

    def _end_of_call(self) -> int | None:
        """Behind the closer; None if it has not come."""
        closer = self._format.closer
        at = -1 if closer is None else self._held.find(closer)
        return None if closer is None or at < 0 else at + len(closer)

    def _opener_at(self) -> int | None:
        found = [at for text in self._format.openers if (at := self._held.find(text)) >= 0]
        at = min(found, default=-1)
        is_late = self._format.at_start and (self._is_text or self._held[: max(at, 0)].strip())
        return None if at < 0 or is_late else at

    def _uncertain(self) -> int:
        """How many characters at the end may begin an opener."""
        openers = self._format.openers
        if self._format.at_start:
            is_possible = not self._is_text and _begins(self._held.lstrip(), openers)
            return len(self._held) if is_possible else 0
        longest = min(max(map(len, openers)) - 1, len(self._held))
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if _begins(self._held[-size:], openers)), 0)

    def _text(self, text: str) -> Iterator[str]:
        if self._is_text or text.strip():
            self._is_text = True
            text, self._blanks = self._blanks + text, ""
            if text:
                yield text
        else:
            self._blanks += text

    def _closed(self, whole: str) -> Iterator[str | FunctionCall]:
        """The calls of a text from opener to closer, or that text."""
        self._is_inside = False
        calls = self._calls(whole)
        if not calls:
            yield from self._text(whole)
            return
        self._blanks, self._is_text, self._has_called = "", False, True
        yield from calls

    def _calls(self, whole: str) -> list[FunctionCall]:
        try:
            calls = self._format.read(_body(whole, self._format))
        except (ValueError, RecursionError):  # the latter: nested too deeply
            return []
        return calls if all(call.name in self._functions for call in calls) else []

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken


def format_of(template: str) -> ToolFormat:
    """That of the model whose chat template this is; Hermes' where it knows no tools."""
    if "[TOOL_CALLS]" in template:
        return FORMATS["mistral"]
    if "<tool_call>" not in template and ("python_tag" in template or '"parameters"' in template):
        return FORMATS["llama"]
    return FORMATS["hermes"]


def as_call(value: object) -> FunctionCall:
    """`{"name": …, "arguments": {…}}`; some say `parameters`, and some give their JSON."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no call of a function")
    given = value.get("arguments", value.get("parameters", {}))
    arguments = json.loads(given) if isinstance(given, str) else given
    if not isinstance(value.get("name"), str) or not isinstance(arguments, Mapping):
        raise ValueError(f"{value!r} is no call of a function")
    return FunctionCall(name=value["name"], arguments=json.dumps(arguments, ensure_ascii=False))


def read_calls(text: str) -> list[FunctionCall]:
    """A JSON list of calls, or one call."""
    value = _json(text)
    return [as_call(item) for item in (value if isinstance(value, list) else [value])]


def _read_mistral(text: str) -> list[FunctionCall]:
    """A list, or `name[ARGS]{…}` and `name{…}`, one after the other."""
    if text.lstrip()[:1] in ("[", "{"):
        return read_calls(text)
    calls, at = [], 0
    while text[at:].strip():
        name = _MISTRAL_NAME.match(text, at)
        if name is None:
            raise ValueError(f"{text[at : at + 40]!r} is no call of a function")
        arguments, at = _decoded(text, name.end())
        calls.append(as_call({"name": name[1], "arguments": arguments}))
    return calls


def _read_llama(text: str) -> list[FunctionCall]:
    """Objects, with `;` or nothing between them."""
    calls, at = [], 0
    while (at := _BETWEEN.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        value, at = _decoded(text, at)
        calls.append(as_call(value))
    return calls


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """A JSON value, and where it ends."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("the arguments are nested too deeply") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("the arguments are nested too deeply") from error


def _body(whole: str, format_: ToolFormat) -> str:
    """What is between opener and closer; an opener of JSON is part of it."""
    opener = next(text for text in format_.openers if whole.startswith(text))
    body = whole if opener in ("{", "[") else whole.removeprefix(opener)
    return body.removesuffix(format_.closer or "")


def _begins(text: str, openers: tuple[str, ...]) -> bool:
    return any(opener.startswith(text) for opener in openers)


_MISTRAL_NAME = re.compile(
    r"\s*(?:\[TOOL_CALLS\])?\s*([\w.:-]+)\s*(?:\[CALL_ID\]\w+)?\s*(?:\[ARGS\])?\s*"
)
_BETWEEN = re.compile(r"[\s;]*")

FORMATS: Mapping[str, ToolFormat] = {
    "hermes": ToolFormat(
        name="hermes",
        openers=("<tool_call>",),
        closer="</tool_call>",
        at_start=False,
        read=read_calls,
    ),
    "llama": ToolFormat(
        name="llama",
        openers=("<|python_tag|>", "{"),
        closer=None,
        at_start=True,
        read=_read_llama,
        arguments_key="parameters",
    ),
    "mistral": ToolFormat(
        name="mistral",
        openers=("[TOOL_CALLS]",),
        closer=None,
        at_start=False,
        read=_read_mistral,
    ),
}
