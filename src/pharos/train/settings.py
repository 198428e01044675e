"""The keys of a recipe are the fields of frozen dataclasses: read strictly.

A key that is no field, a value of another type, and a value that the class refuses are each a
TrainingError that names the key as it stands in the recipe (`training.batch_size`), the rule, and
the nearest thing that would do.
"""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pharos.core.errors import TrainingError

S = TypeVar("S")


def read_settings(kind: type[S], raw: object, where: str = "") -> S:
    """The dataclass `kind` from a mapping; `where` is the key that this stands under."""
    if not isinstance(raw, Mapping):
        raise TrainingError(f"{where or 'the recipe'} is {_shown(raw)}; it must be keys and values")
    types_of = get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            raise TrainingError(_unknown(f"{where}.{key}" if where else str(key), str(key), known))
    values = {key: _read(types_of[key], value, _under(where, key)) for key, value in raw.items()}
    required = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]
    missing = [_under(where, key) for key in required if key not in values]
    if missing:
        raise TrainingError(f"the recipe lacks {', '.join(missing)}")
    try:
        return kind(**values)
    except ValueError as error:
        raise TrainingError(f"{where}: {error}" if where else str(error)) from error


def override(raw: dict[str, Any], assignment: str, value: object) -> None:
    """Set the value under a dotted key (`training.steps`), making the sections on the way."""
    *sections, last = assignment.split(".")
    for section in sections:
        inner = raw.setdefault(section, {})
        if not isinstance(inner, dict):
            raise TrainingError(f"{assignment}: {section} is {_shown(inner)}, it has no keys")
        raw = inner
    raw[last] = value


def _read(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(kind, value, where)
    if origin is Literal:
        if value not in get_args(kind):
            choices = ", ".join(str(choice) for choice in get_args(kind))
            raise TrainingError(f"{where} is {_shown(value)}; choose from {choices}")
        return value
    if is_dataclass(kind):
        return read_settings(kind, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list, Sequence):
        return _read_sequence(kind, value, where)
    if origin in (dict, Mapping):
        return _read_mapping(kind, value, where)
    return _read_scalar(kind, value, where)


def _read_union(kind: Any, value: object, where: str) -> Any:
    choices = get_args(kind)
    if value is None and type(None) in choices:
        return None
    classes = [choice for choice in choices if is_dataclass(choice)]
    if classes and isinstance(value, Mapping):
        return _read(_nearest(classes, value), value, where)
    errors = []
    for choice in choices:
        if choice is not type(None):
            try:
                return _read(choice, value, where)
            except TrainingError as error:
                errors.append(error)
    raise errors[0]


def _nearest(classes: Sequence[Any], value: Mapping[Any, Any]) -> Any:
    """The class that is most likely meant: it has most of the keys."""
    return max(classes, key=lambda one: sum(field.name in value for field in fields(one)))


def _read_sequence(kind: Any, value: object, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TrainingError(f"{where} is {_shown(value)}; it must be a list")
    inner = [choice for choice in get_args(kind) if choice is not Ellipsis]
    if len(inner) > 1 and len(inner) != len(value):
        raise TrainingError(f"{where} has {len(value)} entries; it must have {len(inner)}")
    kinds = inner if len(inner) > 1 else inner * len(value)
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_read(one, entry, f"{where}[{i}]") for i, (one, entry) in pairs)


def _read_mapping(kind: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TrainingError(f"{where} is {_shown(value)}; it must be keys and values")
    _, inner = get_args(kind)
    return {str(key): _read(inner, entry, _under(where, str(key))) for key, entry in value.items()}


def _read_scalar(kind: Any, value: object, where: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        return float(value)  # type: ignore[arg-type]
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise TrainingError(f"{where} is {_shown(value)}; it must be {names.get(kind, kind)}")


def _unknown(where: str, key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{where}: there is no such key; {hint}"


def _under(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
