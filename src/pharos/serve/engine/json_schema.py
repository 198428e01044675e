"""A JSON schema, made ready for the grammar library.

The library refuses by name what it knows and cannot enforce (`not`, `if`, `uniqueItems`). Two
things are left to say. What it does not know it takes for an annotation, as the specification asks;
but words of old drafts were constraints once, and whoever writes them means them: they are refused.
And its dates have a 29th of February each year, and its minutes 61 seconds; ours are those of the
calendar.
"""

import json
from collections.abc import Iterator
from typing import Any

REPLACED = {"divisibleBy": "multipleOf", "extends": "allOf", "disallow": "not"}
"""Constraints of draft 3, and what took their place."""

SCHEMA = ("additionalItems", "additionalProperties", "items")
SCHEMAS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED_SCHEMAS = ("$defs", "definitions", "patternProperties", "properties")
"""Where a schema has others, of the keywords that the library takes."""

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_FOURTH = "(?:0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)"
_MONTH_AND_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_HOUR_AND_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_DATE = f"(?:{_YEAR}-{_MONTH_AND_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = f"{_HOUR_AND_MINUTE}:[0-5][0-9](?:\\.[0-9]{{1,9}})?(?:Z|[+-]{_HOUR_AND_MINUTE})"
PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
"""RFC 3339, as far as the calendar goes: there is no year 0, and seconds do not leap."""


def read_schema(text: str) -> dict[str, Any]:
    """Raises ValueError for what is no JSON schema, and for words that would be skipped."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is an object, and not {text[:80]}; {{}} allows every value")
    for part in _parts(schema):
        _refuse_replaced(part)
        _use_calendar(part)
    return schema


def _refuse_replaced(schema: dict[str, Any]) -> None:
    for keyword in REPLACED.keys() & schema.keys():
        raise ValueError(
            f"{keyword!r} is of draft 3 and is not enforced; write {REPLACED[keyword]!r}, as "
            "later drafts do"
        )


def _use_calendar(schema: dict[str, Any]) -> None:
    name = schema.get("format")
    if isinstance(name, str) and name in PATTERNS:
        del schema["format"]
        both = schema.setdefault("allOf", [])
        if not isinstance(both, list):
            raise ValueError(f"allOf must be a list, and not {both!r}")
        both.append({"pattern": PATTERNS[name]})


def _parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and those inside of it: the values of keywords, not what only looks so (a property
    may be called "format")."""
    waiting: list[object] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += _inner(part)
            yield part


def _inner(schema: dict[str, Any]) -> Iterator[object]:
    for keyword in SCHEMA:
        yield schema.get(keyword)
    for keyword in SCHEMAS:
        if isinstance(listed := schema.get(keyword), list):
            yield from listed
    for keyword in NAMED_SCHEMAS:
        if isinstance(named := schema.get(keyword), dict):
            yield from named.values()
