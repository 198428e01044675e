"""What stands between the products of a prompt's rows: each in one pass over the memory.

    if takes_rows(x, weight):
        y = norm_rows(x, weight, eps)
    if takes_rows(gate, up):
        hidden = silu_and_mul(gate, up)    # SiLU(gate) · up, in the memory of `gate`
    if gate_matrix.takes_many(x) and gate_matrix.lies_as(up_matrix):
        hidden = swiglu(gate_matrix, up_matrix, x)

Torch makes several passes of each, into memory of their own, and products are so fast that these
show beside them.

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
    memory = torch.empty(num_threads * width, dtype=torch.float32)
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


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """`SiLU(gate) · up`, in the memory of `gate` if that is contiguous."""
    loaded = library()
    assert loaded is not None and gate.shape == up.shape and gate.dtype == up.dtype
    gate, up = gate.contiguous(), up.contiguous()
    loaded.silu_and_mul(
        gate.data_ptr(), up.data_ptr(), gate.numel(), DTYPES[gate.dtype], torch.get_num_threads()
    )
    return gate


def swiglu(gate: NativeMatrix, up: NativeMatrix, x: Tensor) -> Tensor:
    """`SiLU(x gateᵀ) · (x upᵀ)`, in the type of `x`. Both matrices must take that many rows and lie
    alike (`lies_as`)."""
    loaded, num_threads = library(), torch.get_num_threads()
    assert loaded is not None and x.shape[-1] == gate.num_inputs == up.num_inputs, x.shape
    assert gate.takes_many(x) and up.takes_many(x) and gate.lies_as(up)
    x, num_rows = x.contiguous(), x.numel() // up.num_inputs
    y = x.new_empty(*x.shape[:-1], up.num_outputs)
    memory = up.memory(num_rows, num_threads)
    loaded.swiglu(
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
