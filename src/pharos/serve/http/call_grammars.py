"""Grammars of calls: what a model may write of the functions that it is offered.

`calls_schema` is a list of calls and nothing else, for a model that must call. `free_calls` leaves
the model its text, and holds it to the functions' schemas once it begins to call: for functions
that are `strict`, and where one call is allowed and no more. It is Lark as llguidance extends it:
`suffix` ends a text at the first place where that stands, `~` is all but, `%json` is a schema, and
`<[7]>` the token 7.
"""

import json
from collections.abc import Collection
from typing import Any

from pharos.serve.engine.json_schema import read_schema
from pharos.serve.engine.request import Grammar
from pharos.serve.http.chat_schemas import FunctionDefinition
from pharos.serve.http.errors import ApiError, unsupported
from pharos.serve.http.tool_formats import ToolFormat

Schema = dict[str, Any]
AS_TRAINED = {"whitespace_flexible": True, "whitespace_pattern": " ", "lenient": False}
"""Calls are written as models learned them: with a blank behind a comma or a colon, or without."""


def calls_schema(functions: Collection[FunctionDefinition], *, parallel: bool) -> Schema:
    """Of a list of calls."""
    return _listed(functions, parallel=parallel) | {"$defs": _arguments(functions)}


def free_calls(
    functions: Collection[FunctionDefinition],
    format_: ToolFormat,
    *,
    parallel: bool,
    opener_id: int | None,
) -> Grammar:
    """Of a text with calls in it, as `format_` writes them. `opener_id` is the token that begins
    them, where that is a special one. Functions that are not strict take any object."""
    functions = [f if f.strict else f.model_copy(update={"parameters": {}}) for f in functions]
    definitions = {"$defs": _arguments(functions), "x-guidance": AS_TRAINED}
    call = json.dumps({"anyOf": _calls(functions, format_.arguments_key)} | definitions)
    calls = json.dumps(_listed(functions, parallel=parallel) | definitions)
    match format_.name:
        case "hermes" if opener_id is None:
            text = _HERMES.format(call=call, many="*" if parallel else "?")
        case "llama":
            text = _LLAMA.format(call=call, more="(/\\s*;\\s*/ call)*" if parallel else "")
        case "mistral":
            opener = '"[TOOL_CALLS]"' if opener_id is None else f"<[{opener_id}]>"
            text = _MISTRAL.format(calls=calls, opener=opener)
        case _:
            raise unsupported(
                "strict", "this model marks calls by special tokens; give tool_choice required"
            )
    return Grammar(kind="lark", text=text)


def rerooted(schema: Any, root: str) -> Any:
    """A schema that is put below `root` of another: its references follow."""
    if isinstance(schema, list):
        return [rerooted(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[key] = root + value[1:]
        else:
            moved[key] = value if key in ("const", "enum") else rerooted(value, root)
    return moved


def _listed(functions: Collection[FunctionDefinition], *, parallel: bool) -> Schema:
    schema = {"type": "array", "items": {"anyOf": _calls(functions, "arguments")}, "minItems": 1}
    return schema if parallel else schema | {"maxItems": 1}


def _calls(functions: Collection[FunctionDefinition], arguments_key: str) -> list[Schema]:
    """A call of each."""
    return [
        {
            "type": "object",
            "properties": {
                "name": {"const": function.name},
                arguments_key: {"$ref": _pointer(function)},
            },
            "required": ["name", arguments_key],
            "additionalProperties": False,
        }
        for function in functions
    ]


def _arguments(functions: Collection[FunctionDefinition]) -> Schema:
    """The schema of each function's arguments, by its name."""
    return {
        function.name: rerooted(_object_schema(function), _pointer(function))
        for function in functions
    }


def _object_schema(function: FunctionDefinition) -> Schema:
    try:
        return {"type": "object"} | read_schema(json.dumps(function.parameters))
    except ValueError as error:
        raise ApiError(f"the parameters of {function.name}: {error}", param="tools") from error


def _pointer(function: FunctionDefinition) -> str:
    return f"#/$defs/{function.name}"


_HERMES = """\
start: (before call){many} rest
before[suffix="<tool_call>"]: /(.|\\n)*/
call: /\\s?/ %json {call} /\\s?<\\/tool_call>/
rest: TEXT?
TEXT: /(.|\\n)+/ & ~/(.|\\n)*<tool_call>(.|\\n)*/
"""
_LLAMA = """\
start: TEXT? | call {more}
call: %json {call}
TEXT: /\\s*[^{{\\s](.|\\n)*/
"""
_MISTRAL = """\
start: TEXT? ({opener} " "? %json {calls})?
TEXT: /(.|\\n)+/
"""
