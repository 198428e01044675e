"""Messages as records have them: several spellings of the same few things.

{"role": "user", "content": "…"}        the usual one; content may be a list of parts
{"from": "human", "value": "…"}         ShareGPT
{"train": false}, {"weight": 0}         the assistant says it, and it is not learned
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pharos.core.nouns import Role
from pharos.data.conversations import Turn
from pharos.data.records import Record

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""What data calls those who speak."""
TEXT_KEYS = ("text", "value", "content")
WEIGHTS = ("weight", "loss_weight")
OWN = {"role", "from", "content", "value", "train", *WEIGHTS}


class Unfit(ValueError):  # noqa: N818 - whoever knows the record's number makes an error of it
    """Something in a record is not as its format has it."""


def text(record: Record, key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise Unfit(f"{key} is {_shown(value)}; it must be a text")
    return value


def texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def flag(record: Record, key: str) -> bool:
    value = record[key]
    if not isinstance(value, bool):
        raise Unfit(
            f"{key} is {_shown(value)}; it must be true or false (if it is something else, name "
            "the format with data.format)"
        )
    return value


def message_list(value: Any, key: str) -> list[Turn]:
    if not isinstance(value, list | tuple) or not value:
        raise Unfit(f"{key} is {_shown(value)}; it must be a list of messages")
    return [_turn(message, f"{key}[{number}]") for number, message in enumerate(value)]


def tool_list(record: Record) -> tuple[Mapping[str, Any], ...]:
    """A list of functions, or the JSON of one."""
    value = record.get("tools") or []
    if isinstance(value, str):
        value = _json(value, "tools") if value.strip() else []
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise Unfit(f"tools is {_shown(value)}; it must be a list of objects, one a function")
    return tuple(value)


def _turn(message: Any, at: str) -> Turn:
    if not isinstance(message, Mapping):
        raise Unfit(f"{at} is {_shown(message)}; a message has role and content")
    name = message.get("role", message.get("from"))
    if not isinstance(name, str) or name not in ROLES:
        known = ", ".join(ROLES)
        raise Unfit(f"{at} has the role {name!r}; known are {known}")
    more = {key: value for key, value in message.items() if key not in OWN and value is not None}
    if name == "function_call":
        more["tool_calls"] = _calls(_content(message, at), at)
        return Turn(role="assistant", content="", is_learned=_is_learned(message, at), more=more)
    return Turn(
        role=ROLES[name],
        content=_content(message, at),
        is_learned=_is_learned(message, at),
        more=more,
    )


def _content(message: Mapping[str, Any], at: str) -> str:
    """A text, or the texts of its parts; none where a message is but a call of tools."""
    content = message.get("content", message.get("value"))
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, list | tuple):
        return "".join(_part(part, at) for part in content)
    if not isinstance(content, str):
        raise Unfit(f"{at} has the content {_shown(content)}; it must be a text")
    return content


def _part(part: Any, at: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        found = next((part[key] for key in TEXT_KEYS if isinstance(part.get(key), str)), None)
        if found is not None:
            return str(found)
    raise Unfit(f'{at} has the part {_shown(part)}; only {{"type": "text", "text": …}} is learned')


def _is_learned(message: Mapping[str, Any], at: str) -> bool:
    train, weights = message.get("train"), [message.get(key) for key in WEIGHTS]
    if train is not None and not isinstance(train, bool):
        raise Unfit(f"{at} has train {_shown(train)}; it must be true or false")
    for weight in weights:
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
            raise Unfit(f"{at} has the weight {_shown(weight)}; it must be 0 or 1")
    return train is not False and 0 not in weights


def _calls(value: str, at: str) -> list[dict[str, Any]]:
    """ShareGPT's `{"name", "arguments"}`, or a list of these, as templates know calls."""
    calls = _json(value, at)
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise Unfit(f'{at} is {_shown(value)}; a call is {{"name": …, "arguments": …}}')
    return [{"type": "function", "function": dict(call)} for call in calls]


def _json(value: str, at: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise Unfit(f"{at} is {_shown(value)}, which is not JSON ({error.msg})") from error


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
