"""Smaller number formats, applied to a model from outside: each module swap is one file."""

from pharos.quant.bf16 import PackedLinear, convert_bf16

__all__ = ["PackedLinear", "convert_bf16"]
