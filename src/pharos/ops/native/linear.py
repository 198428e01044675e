"""Rows times a matrix that lies as torch's own kernels have it: nothing is kept twice.

    matrix = bf16_matrix(packed, bias)      # None where it does not lie as expected
    if matrix is not None and matrix.takes(x):
        y = matrix(x)

oneDNN's layouts are its own affair, and differ between processors. Of those that lie as our kernels
read them, a row and more rows than a tile has are multiplied by both, and the kernels are used if
they give the same.

Shapes: N rows, I inputs, O outputs.
"""

from collections.abc import Callable
from ctypes import addressof
from enum import IntEnum
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pharos.ops.int8 import ZERO, int8_matmul, quantize_around_zero, unpack_int8_weight
from pharos.ops.linear import pack_weight, packed_linear
from pharos.ops.native.load import Library, library
from pharos.ops.native.structures import Matrix

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""As the kernels number them."""

TILE_ROWS = 16
BF16_WIDTHS = 32, 64
"""Outputs that lie side by side, with AMX and without."""


class Layout(IntEnum):
    BF16_PANELS = 0
    INT8_PANELS = 1
    INT8_ROWS = 2


class NativeMatrix:
    """The matrix of a frozen linear, and its bias. `kept` are the tensors that `struct` points to.
    It is not copied with the linear that it belongs to, whose copy has tensors of its own."""

    def __init__(self, loaded: Library, struct: Matrix, kept: tuple[Tensor | None, ...]) -> None:
        self.struct, self._kept, self._library = struct, kept, loaded
        self.address = addressof(struct)
        self._most_rows = {
            dtype: int(loaded.most_rows(self.address, code)) for dtype, code in DTYPES.items()
        }
        self._takes_many = {
            dtype for dtype, code in DTYPES.items() if loaded.takes_many(self.address, code)
        }
        self.num_inputs, self.num_outputs = int(struct.num_inputs), int(struct.num_outputs)

    def most_rows(self, dtype: torch.dtype) -> int:
        """So many rows of that type are few: 8, or 64 where the processor multiplies what the
        weights are, bfloat16 or bytes; 0 if the kernels do not compute with it."""
        return self._most_rows.get(dtype, 0)

    def takes(self, x: Tensor) -> bool:
        """Whether the kernels compute with `x`: a few rows, or any number of them where the
        processor multiplies what the weights are."""
        most_rows = self.most_rows(x.dtype)
        return (
            x.numel() > 0
            and most_rows > 0
            and (x.dtype in self._takes_many or x.numel() <= most_rows * self.num_inputs)
            and x.device.type == "cpu"
            and not (x.requires_grad and torch.is_grad_enabled())
        )

    def takes_many(self, x: Tensor) -> bool:
        """Whether they compute with `x`, and these are more than a few rows."""
        is_many = x.numel() > self.most_rows(x.dtype) * self.num_inputs
        return x.dtype in self._takes_many and is_many and self.takes(x)

    def lies_as(self, other: "NativeMatrix") -> bool:
        """Whether both are of one size and layout."""
        names = ("layout", "num_outputs", "num_inputs", "padded_inputs", "panel_outputs")
        return all(getattr(self.struct, name) == getattr(other.struct, name) for name in names)

    def memory(self, num_rows: int, num_threads: int) -> Tensor:
        """What the kernels need to compute with so many rows."""
        floats = self._library.linear_floats(self.address, num_rows, num_threads)
        return torch.empty(floats, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """`x Wᵀ + b`, in the type of `x` and with its dimensions but the last."""
        assert x.shape[-1] == self.num_inputs, (x.shape, self.num_inputs)
        x, num_threads = x.contiguous(), torch.get_num_threads()
        num_rows = x.numel() // self.num_inputs
        assert self.takes(x), (num_rows, x.dtype)
        y = x.new_empty(*x.shape[:-1], self.num_outputs)
        memory = self.memory(num_rows, num_threads)
        self._library.linear(
            self.address,
            x.data_ptr(),
            y.data_ptr(),
            num_rows,
            DTYPES[x.dtype],
            num_threads,
            memory.data_ptr(),
        )
        return y

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return type(None), ()


def bf16_matrix(packed_OI: Tensor, bias_O: Tensor | None) -> NativeMatrix | None:
    """Of what `pack_weight` gave for a bfloat16 weight."""
    loaded = library()
    if loaded is None or packed_OI.dtype != torch.bfloat16 or not _has_address(packed_OI):
        return None
    num_outputs, num_inputs = packed_OI.shape
    width, num_bytes = _bf16_width(), _num_bytes(packed_OI)
    if width is None or num_inputs % 4:
        return None
    if num_bytes != 2 * _up(num_outputs, width) * _up(num_inputs, 32):
        return None
    made = _bf16_panels(loaded, packed_OI, bias_O, width)
    return made if _agrees(made, _packed_twin(packed_OI, bias_O), torch.bfloat16) else None


@cache
def _bf16_width() -> int | None:
    """How many outputs lie side by side: found with weights that are all different, so that those
    of a model, which may be zero, need not tell."""
    loaded, seeded = library(), torch.Generator().manual_seed(0)
    packed_OI = pack_weight(torch.randn(128, 64, generator=seeded).bfloat16())
    assert loaded is not None
    for width in BF16_WIDTHS:
        made = _bf16_panels(loaded, packed_OI, None, width)
        if _agrees(made, _packed_twin(packed_OI, None), torch.bfloat16):
            return width
    return None


def _bf16_panels(
    loaded: Library, packed_OI: Tensor, bias_O: Tensor | None, width: int
) -> NativeMatrix:
    num_outputs, num_inputs = packed_OI.shape
    return _matrix(
        loaded,
        Layout.BF16_PANELS,
        (num_outputs, num_inputs, _up(num_inputs, 32), width),
        packed_OI,
        torch.ops.mkldnn.data_ptr(packed_OI),
        _num_bytes(packed_OI),
        bias_O=bias_O,
    )


def _packed_twin(packed_OI: Tensor, bias_O: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x_NI: packed_linear(x_NI, packed_OI, bias_O, gelu=False)


def int8_matrix(packed_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> NativeMatrix | None:
    """Of what `pack_int8_weight` gave, for rows that are quantized around zero; `scale_O` is what
    `int8_matmul` is given with it. Such a product is the same, bit for bit."""
    loaded = library()
    if loaded is None or not _has_address(packed_OI):
        return None
    weight_OI = unpack_int8_weight(packed_OI)
    num_outputs, num_inputs = weight_OI.shape
    outputs, inputs = _up(num_outputs, 64), _up(num_inputs, 64)
    # Beside the weights there are their sums, in an order of their own.
    if num_inputs % 4 or _num_bytes(packed_OI) != outputs * (inputs + 4):
        return None
    sums_O = torch.zeros(outputs, dtype=torch.int32)
    sums_O[:num_outputs] = weight_OI.sum(dim=1, dtype=torch.int32)
    made = _matrix(
        loaded,
        Layout.INT8_PANELS,
        (num_outputs, num_inputs, inputs, 64),
        packed_OI,
        torch.ops.mkldnn.data_ptr(packed_OI),
        _num_bytes(packed_OI),
        scale_O=scale_O,
        sums_O=sums_O,
        bias_O=bias_O,
    )

    def expected(x_NI: Tensor) -> Tensor:
        q_NI, most_N1 = quantize_around_zero(x_NI)
        y_NO = int8_matmul(q_NI, packed_OI, scale_O, zero=ZERO) * most_N1
        return y_NO if bias_O is None else y_NO + bias_O

    return made if _agrees(made, expected, torch.float32) else None


def int8_rows_matrix(
    weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None
) -> NativeMatrix | None:
    """Of a weight in bytes as `quantize_weight` gives it."""
    loaded = library()
    if loaded is None or weight_OI.device.type != "cpu" or not weight_OI.is_contiguous():
        return None
    num_outputs, num_inputs = weight_OI.shape
    return _matrix(
        loaded,
        Layout.INT8_ROWS,
        (num_outputs, num_inputs, num_inputs, 16),
        weight_OI,
        weight_OI.data_ptr(),
        weight_OI.nbytes,
        scale_O=scale_O,
        bias_O=bias_O,
    )


def _matrix(
    loaded: Library,
    layout: Layout,
    sizes: tuple[int, int, int, int],
    weight_OI: Tensor,
    address: int,
    num_bytes: int,
    *,
    scale_O: Tensor | None = None,
    sums_O: Tensor | None = None,
    bias_O: Tensor | None = None,
) -> NativeMatrix:
    scale_O, bias_O = _floats(scale_O), _floats(bias_O)
    struct = Matrix(
        address, address_of(scale_O), address_of(sums_O), address_of(bias_O), layout, *sizes
    )
    loaded.in_large_pages(address, num_bytes)
    return NativeMatrix(loaded, struct, (weight_OI, scale_O, sums_O, bias_O))


def _floats(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().float().contiguous()


def address_of(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _has_address(packed_OI: Tensor) -> bool:
    operators: Any = torch.ops.mkldnn
    return packed_OI.is_mkldnn and hasattr(operators, "data_ptr") and hasattr(operators, "_nbytes")


def _num_bytes(packed_OI: Tensor) -> int:
    return int(torch.ops.mkldnn._nbytes(packed_OI))


def _up(count: int, to: int) -> int:
    return -(-count // to) * to


def _agrees(made: NativeMatrix, expected: Callable[[Tensor], Tensor], dtype: torch.dtype) -> bool:
    """Whether both give the same but for rounding; weights in another order would give something
    else altogether. (What is no number equals nothing.) One row, and one more than fit into a tile,
    take different ways through the kernels."""
    seeded = torch.Generator().manual_seed(made.num_inputs)
    for num_rows in {1, min(TILE_ROWS + 1, made.most_rows(dtype))}:
        x_NI = torch.randn(num_rows, made.num_inputs, generator=seeded).to(dtype)
        ours_NO, theirs_NO = made(x_NI).float(), expected(x_NI).float()
        if not bool((ours_NO - theirs_NO).abs().max() <= 0.02 * theirs_NO.abs().max()):
            return False
    return True
