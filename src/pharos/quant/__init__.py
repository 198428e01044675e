"""Smaller number formats, applied to a model from outside: each module swap is one file."""

from pharos.quant.bf16 import PackedLinear, convert_bf16
from pharos.quant.int8 import Int8Linear, convert_int8
from pharos.quant.nf4 import Nf4Linear, bits_per_weight, convert_nf4, dequantize

__all__ = [
    "Int8Linear",
    "Nf4Linear",
    "PackedLinear",
    "bits_per_weight",
    "convert_bf16",
    "convert_int8",
    "convert_nf4",
    "dequantize",
]
