"""Smaller number formats, applied to a model from outside: each module swap is one file."""

from pharos.quant.bf16 import PackedEmbedding, PackedLinear, convert_bf16
from pharos.quant.int8 import Int8Linear, convert_int8
from pharos.quant.methods import METHODS, Convert, convert
from pharos.quant.nf4 import Nf4Linear, bits_per_weight, convert_nf4, dequantize
from pharos.quant.w8a8 import W8A8Linear, convert_w8a8
from pharos.quant.w8a16 import W8A16Linear, convert_w8a16

__all__ = [
    "METHODS",
    "Convert",
    "Int8Linear",
    "Nf4Linear",
    "PackedEmbedding",
    "PackedLinear",
    "W8A8Linear",
    "W8A16Linear",
    "bits_per_weight",
    "convert",
    "convert_bf16",
    "convert_int8",
    "convert_nf4",
    "convert_w8a8",
    "convert_w8a16",
    "dequantize",
]
