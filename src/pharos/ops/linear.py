"""Linear layers whose weights are kept in the layout that the processor's multiplier wants.

`torch.nn.functional.linear` lays bf16 weights out anew in every call; packed once, a call takes
about half the time on a CPU with AMX. The operators are oneDNN's, which torch's own compiler uses
for frozen weights; they have no public Python names, so `can_pack` asks whether they are there, and
whether they take bf16 on this processor.

Shapes: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor
from torch.nn.functional import gelu as exact_gelu
from torch.nn.functional import linear


def can_pack(weight_OI: Tensor) -> bool:
    """Whether `pack_weight` and `packed_linear` work for this weight on this machine."""
    return (
        weight_OI.device.type == "cpu"
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (weight_OI.dtype != torch.bfloat16 or _takes_bf16())
    )


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware, and so faster than fp32."""
    capabilities = torch.cpu.get_capabilities()
    has_products = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return bool(has_products) and _takes_bf16()


def _takes_bf16() -> bool:
    """Without AVX-512 (or where it is switched off), oneDNN refuses to lay bf16 weights out."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_weight(weight_OI: Tensor) -> Tensor:
    """The weight in oneDNN's layout: opaque, of use to `packed_linear` only."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI)
    return packed


def packed_linear(x_NI: Tensor, packed_OI: Tensor, bias_O: Tensor | None, *, gelu: bool) -> Tensor:
    """`x Wᵀ + b`, then the exact GELU while the result is still in registers, if asked."""
    activation, variant = ("gelu", "none") if gelu else ("none", "")
    y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(
        x_NI, packed_OI, bias_O, activation, [], variant
    )
    return y_NO


def plain_linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, *, gelu: bool) -> Tensor:
    """The twin of `packed_linear`, with the weight as it was."""
    y_NO = linear(x_NI, weight_OI, bias_O)
    return exact_gelu(y_NO) if gelu else y_NO
