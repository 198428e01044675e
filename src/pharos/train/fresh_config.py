"""The sizes that a recipe gives a fresh model, read strictly.

A `config.json` may say more than a model is built of, and the rest is passed over. In a recipe the
same would train another network than was asked for: `n_layr: 4` has as many layers as GPT-2. So a
key that the family never asks for is an error here.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pharos.core.errors import TrainingError
from pharos.models.config import ModelConfig
from pharos.models.load import family_of

BESIDE_THE_SIZES = frozenset(
    {
        "_name_or_path",
        "architectures",
        "dtype",
        "task_specific_params",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""What a `config.json` has whatever the network: one may be copied into a recipe."""


class Asked(Mapping[str, Any]):
    """A mapping that keeps the names that were asked for, found or not."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self.raw[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


def fresh_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Of `model.config` in a recipe. `vocab_size` may be left out: the tokenizer tells it. Raises
    TrainingError for a key that would change nothing, ModelError for what the family refuses."""
    asked = Asked({"vocab_size": 1, **raw})
    config = family_of(raw.get("model_type")).config.from_hugging_face(asked)
    known = asked.names | config.to_hugging_face().keys()
    for name in raw:
        if name not in known | BESIDE_THE_SIZES:
            raise TrainingError(_unknown(str(name), config.model_type, sorted(known)))
    return config


def _unknown(name: str, family: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"leave it out; known are {', '.join(known)}"
    return f"model.config.{name} changes nothing in a model of type {family}; {hint}"
