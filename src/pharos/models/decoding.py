"""How an encoder-decoder's targets are searched for, and what a model's folder recommends."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pharos.core.errors import ModelError
from pharos.core.json_files import read_object
from pharos.models.checkpoint import MAX_CONFIG_BYTES, read_config

GENERATION_FILE = "generation_config.json"
NOT_HONOURED = {
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
}
"""Settings of other searches, and the value that means nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingParams:
    """How a target is searched for. `start_id` is what the decoder reads first; it is not part of
    what is found. With `early_stopping` the search ends at the first `num_beams` targets; without,
    once no beginning is better at its present length; with "never" only if it could not become
    better at any length. `banned_ids` are never written, and `forced_bos_id` and `forced_eos_ids`
    always, as the first token and as the last that there is room for."""

    start_id: int
    eos_ids: tuple[int, ...] = ()
    max_new_tokens: int = 128
    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    banned_ids: tuple[int, ...] = ()
    forced_bos_id: int | None = None
    forced_eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if type(self.length_penalty) not in (int, float):
            raise ValueError(f"length_penalty is {self.length_penalty!r}; it must be a number")
        for name in ("max_new_tokens", "num_beams"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be at least 1")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                f"early_stopping is {self.early_stopping!r}; choose True, False or 'never'"
            )

    @classmethod
    def from_hugging_face(cls, raw: Mapping[str, Any]) -> "DecodingParams":
        """Of the content of a `generation_config.json`. What it asks for and is not done here is
        told in a warning. Raises ModelError for what is malformed, and where it is not told what to
        begin with."""
        start = raw.get("decoder_start_token_id")
        start = raw.get("bos_token_id") if start is None else start
        if type(start) is not int:
            raise ModelError(
                f"{GENERATION_FILE}: decoder_start_token_id is {start!r}; a target begins with it"
            )
        values: dict[str, Any] = {
            "num_beams": raw.get("num_beams") or 1,
            "length_penalty": raw.get("length_penalty"),
            "early_stopping": raw.get("early_stopping"),
            "forced_bos_id": raw.get("forced_bos_token_id"),
            "max_new_tokens": _length(raw),
        }
        try:
            return cls(
                start_id=start,
                eos_ids=_ids(raw.get("eos_token_id")),
                forced_eos_ids=_ids(raw.get("forced_eos_token_id")),
                banned_ids=_banned(raw),
                **{name: value for name, value in values.items() if value is not None},
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"{GENERATION_FILE}: {error}") from error


def read_decoding(folder: Path) -> DecodingParams:
    """What a model's folder recommends: `generation_config.json`, or old files' `config.json`."""
    raw = read_config(folder)
    path = folder / GENERATION_FILE
    if path.is_file():
        raw |= read_object(path, max_bytes=MAX_CONFIG_BYTES)
    return DecodingParams.from_hugging_face(raw)


def _length(raw: Mapping[str, Any]) -> int | None:
    """`max_length` counts the start token too."""
    length: int | None = raw.get("max_new_tokens")
    if length is None and raw.get("max_length") is not None:
        length = int(raw["max_length"]) - 1
    return length


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(int(token) for token in value)


def _banned(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Words of one token can be banned by the token; settings of any other search are warned of."""
    words = raw.get("bad_words_ids") or ()
    asked = [name for name, nothing in NOT_HONOURED.items() if raw.get(name) not in (None, nothing)]
    if any(len(word) > 1 for word in words):
        asked.append("bad_words_ids of several tokens")
    if asked:
        warnings.warn(f"not honoured in this search: {', '.join(asked)}", stacklevel=4)
    singles = tuple(int(word[0]) for word in words if len(word) == 1)
    return singles + _ids(raw.get("suppress_tokens"))
