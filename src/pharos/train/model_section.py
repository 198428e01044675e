"""A recipe's `model:` section: what a run begins with, and what of it stays as it is.

model: {load: path/to/model, freeze: [embed_tokens, layers.0]}
model: {load: path/to/model, new_tokens: ["<|im_start|>", "<|im_end|>"]}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSection:
    """One of three: `load` goes on from a folder (or a model's name); `config` is the content of a
    `config.json`, to begin with fresh weights; `student_of` with `layers` begins with every so
    manieth layer of a folder's model. `dropout` is the share that is dropped everywhere in it
    (default: as its config says).

    `freeze` are the parts that stay as they are while the rest is trained, by the checkpoint's
    names or their endings (`embed_tokens`, `encoder.layer.0`). `new_tokens` are added to the
    tokenizer and to the loaded model, as special tokens, and learned. With `untie_embeddings` a
    head that is the embedding again gets a weight of its own."""

    load: str | None = None
    config: Mapping[str, Any] | None = None
    student_of: str | None = None
    layers: int | None = None
    dropout: float | None = None
    freeze: tuple[str, ...] = ()
    new_tokens: tuple[str, ...] = ()
    untie_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be 0 (none) to below 1")
        given = [key for key in ("load", "config", "student_of") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} given; name one of load (a folder), config "
                "(the content of a config.json) and student_of (a teacher's folder)"
            )
        if (self.student_of is None) != (self.layers is None):
            raise ValueError("student_of and layers belong together: the teacher, and how many")
        self._check_tokens()

    def _check_tokens(self) -> None:
        if "" in self.new_tokens or len(set(self.new_tokens)) < len(self.new_tokens):
            raise ValueError(f"new_tokens are {list(self.new_tokens)}; each must be another text")
        for key, instead in {
            "new_tokens": "name them as tokenizer.train.special_tokens",
            "untie_embeddings": "set model.config.tie_word_embeddings to false",
        }.items():
            if getattr(self, key) and self.load is None:
                raise ValueError(
                    f"{key} is for a model that is loaded; give model.load, or of a fresh one "
                    f"{instead}"
                )
