"""The parts that a library uses unless given others: the only place in `rag` that names any."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pharos.core.findings import Team

if TYPE_CHECKING:
    from pharos.specialists import SentenceEncoder


@lru_cache(maxsize=1)
def default_embedder() -> "SentenceEncoder":
    """The sentence encoder, verified and loaded once a process; this imports torch."""
    from pharos.specialists.embed import load_encoder

    return load_encoder()


@lru_cache(maxsize=1)
def default_specialists() -> Team:
    """Those whose adapters are in the package, over the encoder that embeds."""
    from pharos.specialists.team import ShippedTeam

    return ShippedTeam(default_embedder().shared)


def default_tokenizer_file() -> Path:
    """The tokenizer that passages are measured with, found without importing torch."""
    from pharos.models.resolve import DEFAULT_ENCODER, find_model

    return find_model(DEFAULT_ENCODER).path / "tokenizer.json"
