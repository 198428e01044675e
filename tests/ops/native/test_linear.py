"""Rows are multiplied as torch's own kernels do it.

Shapes: N rows, I inputs, O outputs.
"""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pharos.ops.int8 import (
    ZERO,
    has_vnni,
    int8_matmul,
    pack_int8_weight,
    plain_int8_weight_matmul,
    quantize_around_zero,
    quantize_weight,
)
from pharos.ops.linear import pack_weight, plain_linear
from pharos.ops.native import NativeMatrix, bf16_matrix, int8_matrix, int8_rows_matrix
from pharos.ops.native import linear as linear_module

pytestmark = pytest.mark.usefixtures("native")

SIZES = [(1, 4), (16, 64), (33, 36), (64, 896), (100, 72), (300, 60), (31, 1200)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
NUM_ROWS = (*range(1, 10), 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 130, 257)
"""With a tile full, nearly, and just no longer; and a prompt's."""
Twin = Callable[[Tensor], Tensor]


def weight_of(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size[0])
    return torch.randn(size, generator=generator), torch.randn(size[0], generator=generator)


def in_bf16(size: tuple[int, int]) -> tuple[NativeMatrix, Twin]:
    weight_OI, bias_O = (x.bfloat16() for x in weight_of(size))
    matrix = bf16_matrix(pack_weight(weight_OI), bias_O)
    if matrix is None:
        pytest.skip("oneDNN packs in another way on this processor")
    return matrix, lambda x: plain_linear(
        x.float(), weight_OI.float(), bias_O.float(), gelu=False
    ).to(x.dtype)


def in_bytes_by_rows(size: tuple[int, int]) -> tuple[NativeMatrix, Twin]:
    weight_OI, bias_O = weight_of(size)
    codes_OI, scale_O = quantize_weight(weight_OI)
    matrix = int8_rows_matrix(codes_OI, scale_O, bias_O)
    assert matrix is not None
    return matrix, lambda x: (plain_int8_weight_matmul(x.float(), codes_OI, scale_O) + bias_O).to(
        x.dtype
    )


def in_bytes(size: tuple[int, int]) -> tuple[NativeMatrix, Twin]:
    if not has_vnni():
        pytest.skip("this CPU has no eight-bit multiplication")
    weight_OI, bias_O = weight_of(size)
    codes_OI, scale_O = quantize_weight(weight_OI)
    packed_OI, scale_O = pack_int8_weight(codes_OI), scale_O / 127
    matrix = int8_matrix(packed_OI, scale_O, bias_O)
    if matrix is None:
        pytest.skip("oneDNN packs in another way on this processor")

    def twin(x: Tensor) -> Tensor:
        q_NI, most_N1 = quantize_around_zero(x)
        y_NO = int8_matmul(q_NI, packed_OI, scale_O, zero=ZERO, dtype=x.dtype).mul_(most_N1)
        return y_NO + bias_O.to(x.dtype)

    return matrix, twin


def taken(matrix: NativeMatrix, dtype: torch.dtype) -> list[int]:
    likes = [torch.empty(num_rows, matrix.num_inputs, dtype=dtype) for num_rows in NUM_ROWS]
    return [len(x_NI) for x_NI in likes if matrix.takes(x_NI)]


KINDS = {"bf16": in_bf16, "w8a16": in_bytes_by_rows, "w8a8": in_bytes}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@sizes
def test_every_number_of_rows_equals_the_plain_twin(kind: str, size: tuple[int, int]) -> None:
    matrix, twin = KINDS[kind](size)
    for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.float32, 1e-4)):
        for num_rows in taken(matrix, dtype):
            torch.set_num_threads(1 + num_rows % 2)
            x_NI = torch.randn(num_rows, size[1]).to(dtype)
            expected = twin(x_NI)
            most = tolerance * max(1.0, size[1] ** 0.5)
            torch.testing.assert_close(matrix(x_NI), expected, rtol=tolerance, atol=most)


@kinds
def test_a_row_depends_neither_on_its_neighbours_nor_on_the_threads(kind: str) -> None:
    matrix, _ = KINDS[kind]((100, 72))
    x_NI = torch.randn(max(taken(matrix, torch.bfloat16)), 72).bfloat16()
    torch.set_num_threads(1)
    alone = torch.cat([matrix(x_NI[n : n + 1]) for n in range(len(x_NI))])
    torch.set_num_threads(3)
    for num_rows in taken(matrix, torch.bfloat16):
        assert torch.equal(matrix(x_NI[:num_rows]), alone[:num_rows])


def test_dynamic_bytes_are_multiplied_as_by_onednn_bit_for_bit() -> None:
    in_bytes((300, 896))  # skips where they are not
    codes_OI, scale_O = quantize_weight(weight_of((300, 896))[0])
    packed_OI, scale_O = pack_int8_weight(codes_OI), scale_O / 127
    matrix = int8_matrix(packed_OI, scale_O, None)
    assert matrix is not None
    for num_rows in taken(matrix, torch.bfloat16):
        spread_N1 = torch.logspace(-3, 3, num_rows)[:, None]
        x_NI = (torch.randn(num_rows, 896) * spread_N1).bfloat16()
        q_NI, most_N1 = quantize_around_zero(x_NI)
        theirs = int8_matmul(q_NI, packed_OI, scale_O, zero=ZERO, dtype=torch.bfloat16)
        assert torch.equal(matrix(x_NI), theirs.mul_(most_N1))


def test_values_halfway_between_two_bytes_are_rounded_as_torch_rounds_them() -> None:
    in_bytes((64, 64))  # skips where they are not
    codes_OI, scale_O = quantize_weight(torch.eye(64))
    packed_OI, scale_O = pack_int8_weight(codes_OI), scale_O / 127
    matrix = int8_matrix(packed_OI, scale_O, None)
    assert matrix is not None
    halves_I = (torch.arange(64) * 2 - 63.5) / 127
    for most in torch.rand(200, 1, generator=torch.Generator().manual_seed(0)) + 0.5:
        x_1I = (halves_I * most)[None]
        x_1I[0, 0] = most
        q_1I, most_11 = quantize_around_zero(x_1I)
        theirs = int8_matmul(q_1I, packed_OI, scale_O, zero=ZERO)
        assert torch.equal(matrix(x_1I), theirs.mul_(most_11))


@kinds
def test_dimensions_and_strides_are_kept(kind: str) -> None:
    matrix, _ = KINDS[kind]((33, 36))
    x_TBI = torch.randn(3, 2, 36)
    found = matrix(x_TBI.transpose(0, 1))
    assert found.shape == (2, 3, 33)
    torch.testing.assert_close(found, matrix(x_TBI).transpose(0, 1), rtol=0, atol=0)


@kinds
def test_what_is_no_number_stays_none(kind: str) -> None:
    matrix, _ = KINDS[kind]((33, 36))
    for num_rows in taken(matrix, torch.bfloat16):
        x_NI = torch.randn(num_rows, 36).bfloat16()
        x_NI[-1, 5] = torch.nan
        found = matrix(x_NI)
        assert found[:-1].isfinite().all()
        assert found[-1].isnan().all()


def test_few_rows_on_a_cpu_are_taken() -> None:
    matrix, _ = in_bytes_by_rows((16, 64))
    assert matrix.most_rows(torch.float32) == 8
    assert matrix.most_rows(torch.float16) == 0
    assert matrix.takes(torch.zeros(8, 64))
    assert matrix.takes(torch.zeros(2, 4, 64).bfloat16())
    assert not matrix.takes(torch.zeros(9, 64))
    assert not matrix.takes(torch.zeros(0, 64))
    assert not matrix.takes(torch.zeros(1, 64).half())
    assert not matrix.takes(torch.zeros(1, 64, requires_grad=True))
    assert not matrix.takes(torch.zeros(1, 64, device="meta"))


def test_more_rows_are_taken_in_the_type_of_the_weights_but_not_of_floats() -> None:
    matrix, _ = in_bf16((16, 64))
    assert matrix.most_rows(torch.float32) == 8
    if matrix.most_rows(torch.bfloat16) == 8:
        pytest.skip("this processor multiplies floats only")
    assert matrix.takes(torch.zeros(64, 64).bfloat16())
    assert not matrix.takes_many(torch.zeros(64, 64).bfloat16())
    assert matrix.takes_many(torch.zeros(65, 64).bfloat16())
    assert not matrix.takes(torch.zeros(9, 64))


def test_any_number_of_rows_becomes_bytes() -> None:
    matrix, _ = in_bytes((16, 64))
    if matrix.most_rows(torch.float32) == 8:
        pytest.skip("this processor multiplies floats only")
    assert matrix.takes(torch.zeros(1000, 64))
    assert matrix.takes(torch.zeros(1000, 64).bfloat16())
    assert not matrix.takes(torch.zeros(1000, 64).half())


def test_weights_that_lie_otherwise_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OI = torch.randn(64, 64).bfloat16()
    assert bf16_matrix(weight_OI, None) is None  # not packed
    assert bf16_matrix(pack_weight(weight_OI[:, :62]), None) is None  # not whole quadruples
    assert (
        int8_rows_matrix(torch.zeros(64, 64, dtype=torch.int8).T[:8], torch.ones(8), None) is None
    )
    shuffled_OI = pack_weight(weight_OI.roll(1, dims=0))
    multiply = linear_module.packed_linear
    monkeypatch.setattr(
        linear_module,
        "packed_linear",
        lambda x, _, bias, *, gelu: multiply(x, shuffled_OI, bias, gelu=gelu),
    )
    assert bf16_matrix(pack_weight(weight_OI), None) is None


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_weights_that_are_all_the_same_lie_as_others_do(weight: float) -> None:
    made = bf16_matrix(pack_weight(torch.full((128, 64), weight).bfloat16()), None)
    other = bf16_matrix(pack_weight(torch.randn(128, 64).bfloat16()), None)
    if made is None or other is None:
        pytest.skip("oneDNN packs in another way on this processor")
    assert made.lies_as(other)
    x_NI = torch.randn(3, 64).bfloat16()
    expected = (weight * x_NI.float().sum(dim=1, keepdim=True)).expand(3, 128)
    torch.testing.assert_close(made(x_NI).float(), expected, rtol=0.01, atol=0.01)


def test_a_copy_of_a_linear_goes_without_its_matrix() -> None:
    matrix, _ = in_bytes_by_rows((16, 64))
    assert copy.deepcopy(matrix) is None
    assert pickle.loads(pickle.dumps(matrix)) is None
