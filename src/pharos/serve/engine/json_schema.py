"""What of a JSON schema cannot be enforced while an output is written, and goes unsaid otherwise.

The grammar library refuses by name what it knows and cannot enforce (`not`, `if`, `uniqueItems`).
What it does not know it takes for an annotation, as the specification says. But words of old drafts
were constraints once, and whoever writes them means them.
"""

import json
from collections.abc import Iterator
from typing import Any

REPLACED = {"divisibleBy": "multipleOf", "extends": "allOf", "disallow": "not"}
"""Constraints of draft 3, and what took their place."""

SCHEMA = ("additionalItems", "additionalProperties", "items")
SCHEMAS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED_SCHEMAS = ("$defs", "definitions", "patternProperties", "properties")
"""Where a schema has others, of the keywords that the grammar library takes."""


def read_schema(text: str) -> dict[str, Any]:
    """Raises ValueError for what is no JSON schema, and for one that nothing or not all of it could
    be held to."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the JSON schema cannot be read: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ValueError(
            f"a JSON schema is an object, and this is {text[:80]}; {{}} allows every JSON value"
        )
    for keyword in _keywords(schema):
        if keyword in REPLACED:
            raise ValueError(
                f"{keyword!r} is of draft 3 of JSON Schema and is not enforced; say "
                f"{REPLACED[keyword]!r}, as later drafts do"
            )
    return schema


def _keywords(schema: object) -> Iterator[str]:
    """The keywords of a schema and of those inside of it. Names of properties are none."""
    waiting = [schema]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            yield from schema
            waiting += _inner(schema)


def _inner(schema: dict[str, Any]) -> Iterator[object]:
    for keyword in SCHEMA:
        yield schema.get(keyword)
    for keyword in SCHEMAS:
        if isinstance(listed := schema.get(keyword), list):
            yield from listed
    for keyword in NAMED_SCHEMAS:
        if isinstance(named := schema.get(keyword), dict):
            yield from named.values()
