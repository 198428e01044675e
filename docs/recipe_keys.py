"""Writes docs/recipes.md: every key of a recipe, from the classes that read it.

python docs/recipe_keys.py          (a test compares the page with what this would write)
"""

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pharos.train.adaptation import METHODS
from pharos.train.objectives import OBJECTIVES
from pharos.train.recipe import Recipe

PAGE = Path(__file__).parent / "recipes.md"
TOP = """\
# Every key of a recipe

What a recipe may say, with what is taken where it says nothing. How the keys go together is told in
[training.md](training.md). Above each table is what the class says of itself that reads them: the
page is written by `python docs/recipe_keys.py`.
"""
ADAPTER = """\
## `adapter`

`method` is one of those below, with its keys. With any of them, `begin_from` is the folder of a
trained adapter whose updates this one begins as.
"""
NAMES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Any: "anything",
    types.NoneType: "null",
}


def page() -> str:
    sections = [TOP, *of_class(Recipe, "")]
    for name, entry in OBJECTIVES.items():
        sections += of_class(entry.config, "objective", f"`objective: {{name: {name}}}`")
    sections.append(ADAPTER)
    for name, kind in METHODS.items():
        sections += of_class(kind, "adapter", f"`adapter: {{method: {name}}}`")
    return "\n".join(sections)


def of_class(kind: Any, where: str, title: str | None = None) -> Iterator[str]:
    """A class and those of its fields, each with a table of keys under its title."""
    if fields(kind):
        yield f"## {title or (f'`{where}`' if where else 'The recipe')}\n"
        yield text_of(kind)
        yield table(kind, where)
    else:
        yield f"## {title}\n\nNo other keys.\n"
    hints = get_type_hints(kind)
    for field in fields(kind):
        for inner, place in classes_in(hints[field.name], under(where, field.name)):
            yield from of_class(inner, place, heading(inner, kind, place))


def heading(inner: Any, kind: Any, place: str) -> str:
    """Of two classes that may stand under one key, each has its name."""
    told = {"TextData": " of texts", "RecordData": " of records"}
    return f"`{place}`{told.get(inner.__name__, '')}"


def classes_in(kind: Any, place: str) -> Iterator[tuple[Any, str]]:
    """The classes that a value under `place` may be of, each with where its keys stand."""
    if is_dataclass(kind):
        yield kind, place
        return
    step = {tuple: "[]", Mapping: ".NAME"}.get(python_origin(kind), "")
    for inner in get_args(kind):
        yield from classes_in(inner, place + step)


def python_origin(kind: Any) -> Any:
    origin = get_origin(kind)
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return Mapping if is_mapping else origin


def text_of(kind: Any) -> str:
    """What the class says of itself; a dataclass without a text has its signature as one."""
    text = inspect.cleandoc(kind.__doc__ or "")
    is_signature = text.startswith(f"{kind.__name__}(")
    return "" if is_signature else re.sub(r"(?<!`)\*(?!`)", r"\\*", text) + "\n"


def table(kind: Any, where: str) -> str:
    hints = get_type_hints(kind)
    rows = [
        f"| `{under(where, field.name)}` | {told(hints[field.name])} | {default_of(field)} |"
        for field in fields(kind)
        if field.init
    ]
    return "\n".join(["| key | value | default |", "|---|---|---|", *rows]) + "\n"


def told(kind: Any) -> str:
    """A type in words."""
    origin, inner = python_origin(kind), get_args(kind)
    if kind in NAMES:
        return NAMES[kind]
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(told(one) for one in inner))
    if origin is tuple:
        return f"list of {told(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} numbers"
    if origin is Mapping:
        return f"{told(inner[1])} by name" if inner[1] is not Any else "keys and values"
    return "keys, below"


def default_of(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return shown(field.default)
    if field.default_factory is MISSING:
        return "must be given"
    made = field.default_factory()
    return "as below" if is_dataclass(made) else shown(made)


def shown(value: Any) -> str:
    """As YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    if isinstance(value, tuple | list | Mapping):
        return f"`[{', '.join(map(str, value))}]`" if value else "empty"
    return f"`{value}`"


def under(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
