"""What the configs of all architectures share: reading and writing Hugging Face's `config.json`.

The fields of a config have the file's names, or the usual ones where a family has its own
(`RENAMED`: GPT-2's `n_embd` is `hidden_size`). What the file says beyond them is ignored, except
for settings that would make another network (`FIXED`): those must have the one value built here.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

from pharos.core.errors import ModelError

LARGEST = 2**40
LARGEST_WIDTH = 2**24
MOST_LAYERS = 4096

TokenIds = int | tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A model's sizes. Raises ModelError for what no network can have, before memory is asked for.

    `num_labels` is the width of a classifier on top, `initializer_range` the standard deviation of
    new weights.
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
    num_labels: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not -LARGEST < value < LARGEST:
                raise ModelError(f"config.json: {field.name} is {value}; no model is that large")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            most = MOST_LAYERS if name == "num_hidden_layers" else LARGEST_WIDTH
            if not 1 <= (value := getattr(self, name)) <= most:
                raise ModelError(f"config.json: {name} is {value}; it must be 1 to {most:,}")

    @classmethod
    def from_hugging_face(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ModelError naming the setting that is missing, malformed, or not built here."""
        for key, value in cls.FIXED.items():
            if raw.get(key, value) != value:
                raise ModelError(
                    f"config.json: {key} is {raw[key]!r}; only {value!r} is built here"
                )
        values: dict[str, Any] = {}
        for field in fields(cls):
            theirs = cls.RENAMED.get(field.name, field.name)
            if theirs in raw:
                values[field.name] = raw[theirs]
        values |= cls.read_special(raw)
        missing = [
            cls.RENAMED.get(field.name, field.name)
            for field in fields(cls)
            if field.default is MISSING and field.name not in values
        ]
        if missing:
            raise ModelError(f"config.json lacks {', '.join(missing)}")
        try:
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"config.json: {error}") from error

    def to_hugging_face(self) -> dict[str, Any]:
        """The content of a `config.json` of which Hugging Face's libraries build the same."""
        raw = {
            self.RENAMED.get(field.name, field.name): getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("num_labels", *self.own_fields())
        }
        labels = {str(i): f"LABEL_{i}" for i in range(self.num_labels)}
        raw |= {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}
        return {**raw, **self.FIXED, **self.write_special()}

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Fields that are not simply a value of the file. A family adds its own to these."""
        special: dict[str, Any] = {}
        if isinstance(raw.get("eos_token_id"), list):
            special["eos_token_id"] = tuple(raw["eos_token_id"])
        if isinstance(raw.get("id2label"), dict):
            special["num_labels"] = len(raw["id2label"])
        return special

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        """The fields that `read_special` and `write_special` translate."""
        return ()

    def write_special(self) -> dict[str, Any]:
        return {}


def check_divides(**pair: int) -> None:
    """Of two named sizes the second must divide the first."""
    (name, value), (by, divisor) = pair.items()
    if divisor < 1 or value % divisor:
        raise ModelError(f"config.json: {name} {value} is not a multiple of {by} {divisor}")
