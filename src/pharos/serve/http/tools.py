"""The functions that a client offers: how the model is told of them, and what it says of them.

`auto` leaves it to the model: its text is read as its format has it (`tool_formats`). Where a call
is asked for, `required` or by name, the text obeys a grammar (`call_grammars`), and cannot be
anything else.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pharos.serve.engine.request import Grammar
from pharos.serve.http.call_grammars import calls_schema, free_calls
from pharos.serve.http.chat_schemas import NamedTool, Tool
from pharos.serve.http.errors import ApiError
from pharos.serve.http.tool_formats import FunctionCall, ToolCallReader, ToolFormat, read_calls

Choice = NamedTool | str | None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """News of call number `index`: its beginning has an `id` and a `name`. The `arguments` of all
    its deltas add up."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class Reader(Protocol):
    """Makes of a text that comes in pieces what is said, and what is called."""

    def push(self, piece: str) -> Iterator[str | CallDelta]: ...

    def flush(self) -> Iterator[str | CallDelta]: ...


class ToolUse:
    """What a request says of functions. `opener_id` is the special token by which the model begins
    a call, if there is one. `grammar` is what the text must obey, `prompt_tools` what the model is
    told."""

    def __init__(
        self,
        tools: Sequence[Tool],
        choice: Choice,
        *,
        parallel: bool,
        format_: ToolFormat,
        opener_id: int | None = None,
    ) -> None:
        self._functions = {tool.function.name: tool.function for tool in tools}
        self._choice = _checked(choice, tools)
        self._format = format_
        self._opener_id = opener_id
        self.prompt_tools = [tool.model_dump(exclude_none=True) for tool in tools]
        self.grammar: Grammar | None = None
        if self._choice == "none":
            self.prompt_tools = []
        elif isinstance(self._choice, NamedTool):
            parameters = self._functions[self._choice.function.name].parameters
            self.grammar = Grammar(kind="json_schema", text=json.dumps(parameters))
        elif self._choice == "required":
            schema = calls_schema(self._functions.values(), parallel=parallel)
            self.grammar = Grammar(kind="json_schema", text=json.dumps(schema))
        elif not parallel or any(tool.function.strict for tool in tools):
            self.grammar = free_calls(
                self._functions.values(), format_, parallel=parallel, opener_id=opener_id
            )

    @property
    def is_auto(self) -> bool:
        return self._choice == "auto"

    @property
    def is_named(self) -> bool:
        return isinstance(self._choice, NamedTool)

    @property
    def shows_special(self) -> bool:
        """Whether calls begin with a special token, which must then be in the text."""
        return self.is_auto and self._opener_id is not None

    def reader(self) -> Reader:
        """For one choice."""
        if isinstance(self._choice, NamedTool):
            return _NamedReader(self._choice.function.name)
        if self._choice == "none":
            return _TextReader()
        format_ = self._format if self.is_auto else _LIST
        return _CallReader(ToolCallReader(format_, self._functions))


def call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class _TextReader:
    def push(self, piece: str) -> Iterator[str | CallDelta]:
        if piece:
            yield piece

    def flush(self) -> Iterator[str | CallDelta]:
        yield from ()


class _NamedReader:
    """All of the text is the arguments of one call."""

    def __init__(self, name: str) -> None:
        self._beginning: CallDelta | None = CallDelta(0, "", id=call_id(), name=name)

    def push(self, piece: str) -> Iterator[str | CallDelta]:
        if self._beginning is not None:
            yield self._beginning
            self._beginning = None
        if piece:
            yield CallDelta(0, piece)

    def flush(self) -> Iterator[str | CallDelta]:
        yield from self.push("")


class _CallReader:
    """Numbers the calls that are found in a text."""

    def __init__(self, reader: ToolCallReader) -> None:
        self._reader = reader
        self._num_calls = 0

    def push(self, piece: str) -> Iterator[str | CallDelta]:
        return map(self._numbered, self._reader.push(piece))

    def flush(self) -> Iterator[str | CallDelta]:
        return map(self._numbered, self._reader.flush())

    def _numbered(self, item: str | FunctionCall) -> str | CallDelta:
        if isinstance(item, str):
            return item
        self._num_calls += 1
        return CallDelta(self._num_calls - 1, item.arguments, id=call_id(), name=item.name)


_LIST = ToolFormat(
    name="list",
    openers=("[",),
    closer=None,
    at_start=True,
    read=read_calls,
)
"""What the grammar of `required` writes."""


def _checked(choice: Choice, tools: Sequence[Tool]) -> Choice:
    """The choice, once it can be met."""
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ApiError(f"tools has two functions named {twice!r}; rename one", param="tools")
    if choice is None:
        return "auto" if tools else "none"
    if choice != "none" and not tools:
        raise ApiError("tool_choice is given, and tools is not; give both", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise ApiError(
            f"tool_choice names {choice.function.name!r}; tools has {', '.join(names)}",
            param="tool_choice",
        )
    return choice


def told_in_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For templates without a place for functions: Hermes' way to tell of them in the system
    message, calls and results in the text."""
    told = [_as_text(message) for message in messages]
    if not tools:
        return told
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    instructions = _INSTRUCTIONS.format(tools=listed)
    if told[0]["role"] != "system":
        return [{"role": "system", "content": instructions}, *told]
    told[0]["content"] += f"\n\n{instructions}"
    return told


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        answer = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": answer}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return {
        "role": message["role"],
        "content": "\n".join(filter(None, [message["content"], *calls])),
    }


_INSTRUCTIONS = """\
You may call functions. These are their signatures, one a line, between <tools> and </tools>:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON:
<tool_call>
{{"name": "<function>", "arguments": {{<arguments>}}}}
</tool_call>"""
