"""Small encoders that each do one thing: vectors of sentences, and what adapters have learned.

Names are imported when first used: whoever reads a card needs no torch model for it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pharos.specialists.embed import SentenceEncoder, load_encoder
    from pharos.specialists.shared_encoder import Precision, SharedEncoder, load_shared_encoder

_HOMES = {
    "Precision": "shared_encoder",
    "SentenceEncoder": "embed",
    "SharedEncoder": "shared_encoder",
    "load_encoder": "embed",
    "load_shared_encoder": "shared_encoder",
}

__all__ = [
    "Precision",
    "SentenceEncoder",
    "SharedEncoder",
    "load_encoder",
    "load_shared_encoder",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pharos.specialists.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pharos.specialists' has no attribute {name!r}")
