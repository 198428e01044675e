"""What stands between the products of a prompt's rows: each in one pass over the memory.

    if takes_rows(x, weight):
        y = norm_rows(x, weight, eps)
    if takes_rows(gate, up):
        hidden = gate_rows(gate, up)    # SiLU(gate) · up, in the memory of `gate`
    if gate_matrix.takes_many(x) and up_matrix.takes_many(x):
        hidden = gated_rows(gate_matrix, up_matrix, x)

Torch makes several passes of each, into memory of their own, and products in tiles are so fast that
these show beside them.

Shapes: N rows, D width of a row, I inputs, F outputs of gate and up.
"""

import torch
from torch import Tensor

from pharos.ops.native.linear import DTYPES, NativeMatrix
from pharos.ops.native.load import library


def takes_rows(*tensors: Tensor) -> bool:
    """Whether there are kernels, and they compute with these tensors."""
    return (
        all(x.device.type == "cpu" and x.numel() > 0 for x in tensors)
        and tensors[0].dtype in DTYPES
        and all(x.dtype == tensors[0].dtype for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and library() is not None
    )


def norm_rows(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """`x / √(mean(x²) + eps) · weight` over the last dimension."""
    loaded, num_threads = library(), torch.get_num_threads()
    assert loaded is not None and x.shape[-1] == len(weight_D), (x.shape, weight_D.shape)
    x, weight_D = x.contiguous(), weight_D.detach().float().contiguous()
    y, width = torch.empty_like(x), len(weight_D)
    memory = torch.empty(num_threads * width)
    loaded.norm(
        x.data_ptr(),
        weight_D.data_ptr(),
        eps,
        y.data_ptr(),
        x.numel() // width,
        width,
        DTYPES[x.dtype],
        num_threads,
        memory.data_ptr(),
    )
    return y


def gate_rows(gate: Tensor, up: Tensor) -> Tensor:
    """`SiLU(gate) · up`, in the memory of `gate` if that is contiguous."""
    loaded = library()
    assert loaded is not None and gate.shape == up.shape and gate.dtype == up.dtype
    gate, up = gate.contiguous(), up.contiguous()
    loaded.gate(
        gate.data_ptr(), up.data_ptr(), gate.numel(), DTYPES[gate.dtype], torch.get_num_threads()
    )
    return gate


def gated_rows(gate: NativeMatrix, up: NativeMatrix, x: Tensor) -> Tensor:
    """`SiLU(x gateᵀ) · (x upᵀ)`, in the type of `x`; both matrices must take that many rows."""
    loaded, num_threads = library(), torch.get_num_threads()
    assert loaded is not None and x.shape[-1] == gate.num_inputs == up.num_inputs, x.shape
    assert gate.takes_many(x) and up.takes_many(x) and gate.num_outputs == up.num_outputs
    x, num_rows = x.contiguous(), x.numel() // up.num_inputs
    y = x.new_empty(*x.shape[:-1], up.num_outputs)
    memory = up.memory(num_rows, num_threads)
    loaded.gated(
        gate.address,
        up.address,
        x.data_ptr(),
        y.data_ptr(),
        num_rows,
        DTYPES[x.dtype],
        num_threads,
        memory.data_ptr(),
    )
    return y
