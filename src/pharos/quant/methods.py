"""The formats that a decoder can be served in, by name."""

from collections.abc import Callable, Mapping

from pharos.models.heads import CausalLM
from pharos.quant.bf16 import convert_bf16
from pharos.quant.nf4 import convert_nf4
from pharos.quant.w8a8 import convert_w8a8
from pharos.quant.w8a16 import convert_w8a16

Convert = Callable[[CausalLM], CausalLM]
"""Turns a model into one for inference in another format, in place."""

METHODS: Mapping[str, Convert] = {
    "bf16": convert_bf16,
    "w8a8": convert_w8a8,
    "w8a16": convert_w8a16,
    "nf4": convert_nf4,
}


def convert(model: CausalLM, method: str) -> CausalLM:
    """Raises ValueError for a method that there is not, and ModelError for a model that it cannot
    convert."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    return METHODS[method](model)
