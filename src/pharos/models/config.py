"""What the configs of all architectures share: reading and writing Hugging Face's `config.json`.

The fields of a config have the file's names, or the usual ones where a family has its own
(`RENAMED`: GPT-2's `n_embd` is `hidden_size`). What the file says beyond them is ignored, except
for settings that would make another network (`FIXED`): those must have the one value built here.
"""

import reprlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin

from pharos.core.errors import ModelError

LARGEST = 2**40
LARGEST_WIDTH = 2**24
MOST_LAYERS = 1024
MOST_LABELS = 2**20
SIZES = {
    "vocab_size": LARGEST_WIDTH,
    "hidden_size": LARGEST_WIDTH,
    "num_hidden_layers": MOST_LAYERS,
    "num_attention_heads": LARGEST_WIDTH,
}
"""What every config has, and what a family's own reading of a file can rely on, with the most that
each may be."""

C = TypeVar("C", bound="ModelConfig")
TokenIds = int | tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A model's sizes. Raises ModelError for what no network can have, before memory is asked for.

    `labels` are the names of the classes of a classifier on top, `initializer_range` is the
    standard deviation of new weights.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    FIXED: ClassVar[Mapping[str, Any]] = {}

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: TokenIds = None
    pad_token_id: int | None = None
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")

    def __post_init__(self) -> None:
        for field in fields(self):
            shown = self.RENAMED.get(field.name, field.name)
            _check_value(shown, getattr(self, field.name), field.type)
            _check_range(field.name, shown, getattr(self, field.name))
        for name, most in SIZES.items():
            self.check_sizes(name, most=most)

    def check_sizes(self, *names: str, least: int = 1, most: int = LARGEST_WIDTH) -> None:
        """These fields must be within what a network can have."""
        for name in names:
            shown = self.RENAMED.get(name, name)
            check_size(least=least, most=most, **{shown: getattr(self, name)})

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @classmethod
    def from_hugging_face(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ModelError naming the setting that is missing, malformed, or not built here."""
        for key, value in cls.FIXED.items():
            check_same(key, raw.get(key, value), value)
        values: dict[str, Any] = {}
        for field in fields(cls):
            theirs = cls.RENAMED.get(field.name, field.name)
            if theirs in raw:
                values[field.name] = raw[theirs]
        for name in SIZES.keys() & values.keys():
            shown = cls.RENAMED.get(name, name)
            _check_value(shown, values[name], int)
            check_size(most=SIZES[name], **{shown: values[name]})
        with _named_errors():
            values |= cls.read_special(raw)
        missing = [
            cls.RENAMED.get(field.name, field.name)
            for field in fields(cls)
            if field.default is MISSING and field.name not in values
        ]
        if missing:
            raise ModelError(f"config.json lacks {', '.join(missing)}")
        with _named_errors():
            return cls(**values)

    def to_hugging_face(self) -> dict[str, Any]:
        """The content of a `config.json` of which Hugging Face's libraries build the same."""
        raw = {
            self.RENAMED.get(field.name, field.name): getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("labels", *self.own_fields())
        }
        raw["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
        raw["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return {**raw, **self.FIXED, **self.write_special()}

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Fields that are not simply a value of the file. A family adds its own to these."""
        special: dict[str, Any] = {}
        if isinstance(raw.get("eos_token_id"), list):
            special["eos_token_id"] = tuple(raw["eos_token_id"])
        if raw.get("id2label") is not None:
            special["labels"] = _read_labels(raw["id2label"])
        elif raw.get("num_labels") is not None:
            special["labels"] = default_labels(raw["num_labels"])
        return special

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        """The fields that `read_special` and `write_special` translate."""
        return ()

    def write_special(self) -> dict[str, Any]:
        return {}


@contextmanager
def _named_errors() -> Iterator[None]:
    """What a malformed value makes Python say, as an error that names the file."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise ModelError(f"config.json has a malformed setting: {error!r}") from error


def check_size(*, least: int = 1, most: int = LARGEST_WIDTH, **sizes: int) -> None:
    """Named sizes must be within what a network can have."""
    for name, value in sizes.items():
        if not least <= value <= most:
            raise ModelError(f"config.json: {name} is {value}; it must be {least} to {most:,}")


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ModelError(f"config.json: {name} is {value!r}; choose from {', '.join(known)}")


def check_same(name: str, value: object, built: object) -> None:
    """A setting that would make another network must have the value that is built."""
    if value != built:
        shown = reprlib.repr(value)
        raise ModelError(f"config.json: {name} is {shown}; only {built!r} is built here")


def check_divides(**pair: int) -> None:
    """Of two named sizes the second must divide the first."""
    (name, value), (by, divisor) = pair.items()
    if divisor < 1 or value % divisor:
        raise ModelError(f"config.json: {name} {value} is not a multiple of {by} {divisor}")


def default_labels(count: int) -> tuple[str, ...]:
    """The names that Hugging Face's libraries give to classes without names."""
    if type(count) is not int or not 1 <= count <= MOST_LABELS:
        raise ModelError(f"config.json: num_labels is {count!r}; it must be 1 to {MOST_LABELS:,}")
    return tuple(f"LABEL_{i}" for i in range(count))


def with_labels(config: C, count: int) -> C:
    """The same network, for a classifier of so many classes."""
    if count == config.num_labels:
        return config
    return replace(config, labels=default_labels(count))


def _read_labels(names: object) -> tuple[str, ...]:
    numbers = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if not isinstance(names, dict) or not numbers or set(names) != set(numbers):
        raise ModelError("config.json: id2label must give each class, from 0 on, its name")
    return tuple(str(names[i]) for i in numbers)


def _check_value(name: str, value: object, declared: Any) -> None:
    """A setting is of the type that the config declares, and no number is absurd."""
    if not _is_a(value, declared):
        shown = declared.__name__ if isinstance(declared, type) else str(declared)
        raise ModelError(f"config.json: {name} is {reprlib.repr(value)}; it must be {shown}")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        most = LARGEST_WIDTH if isinstance(number, int) else LARGEST
        if isinstance(number, int | float) and not -most <= number <= most:
            raise ModelError(f"config.json: {name} is {number}; no model has such a number")


def _check_range(name: str, shown: str, value: Any) -> None:
    """Of what is named alike in all families: probabilities, and what must not be negative."""
    is_probability = name.endswith("dropout")
    if not is_probability and not name.endswith(("_eps", "_epsilon", "initializer_range")):
        return
    most = 1 if is_probability else LARGEST
    if value is not None and not 0 <= value <= most:
        rule = "a probability, 0 to 1" if is_probability else "at least 0"
        raise ModelError(f"config.json: {shown} is {value}; it must be {rule}")


def _is_a(value: object, declared: Any) -> bool:
    if isinstance(declared, UnionType):
        return any(_is_a(value, kind) for kind in get_args(declared))
    if declared is float:
        return type(value) in (int, float)
    if declared is int:
        return type(value) is int  # and not a bool
    if get_origin(declared) is tuple:
        element = get_args(declared)[0]
        return isinstance(value, tuple) and all(_is_a(part, element) for part in value)
    return isinstance(value, declared) if isinstance(declared, type) else True
