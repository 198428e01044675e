"""Smaller number formats, applied to a model from outside: each module swap is one file."""

from pharos.quant.bf16 import PackedLinear, convert_bf16
from pharos.quant.int8 import Int8Linear, convert_int8

__all__ = ["Int8Linear", "PackedLinear", "convert_bf16", "convert_int8"]
