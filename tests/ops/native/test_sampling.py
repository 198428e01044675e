"""The next token by the kernel is the likeliest, or one drawn by its probability."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharos.core import SamplingParams
from pharos.ops import sampling
from pharos.ops.native import choose, takes_scores
from pharos.ops.native.sampling import LEAST
from pharos.ops.sampling import sample

pytestmark = pytest.mark.usefixtures("native")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
SIZES = (1, 31, 64, 65, 97, 4096, 5001, 32_000)
sizes = pytest.mark.parametrize("size", SIZES)


def scores_of(num_rows: int, size: int, dtype: torch.dtype, *, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return (scale * torch.randn(num_rows, size, generator=generator)).to(dtype)


def mask_of(num_rows: int, size: int, *, share: float) -> NDArray[np.int32]:
    """With one legal token at least in each row, and bits behind the last that say nothing."""
    random = np.random.default_rng(size)
    legal = random.random((num_rows, -(-size // 32) * 32)) < share
    legal[:, size // 2] = True
    return np.packbits(legal, axis=1, bitorder="little").view(np.int32)


def is_legal(mask_BW: NDArray[np.int32], size: int) -> Tensor:
    bits = np.unpackbits(mask_BW.view(np.uint8), axis=1, bitorder="little")
    return torch.from_numpy(bits[:, :size].astype(bool))


def assert_drawn(
    scores_BV: Tensor, ids_B: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]
) -> None:
    """The uniform number is within the token's part of the cumulative distribution."""
    for scores_V, id_, temperature, uniform in zip(
        scores_BV.double(), ids_B.tolist(), temperatures, uniforms, strict=True
    ):
        shares_V = (scores_V / temperature).softmax(dim=0)
        before, share = float(shares_V[:id_].sum()), float(shares_V[id_])
        assert share > 0
        assert before - 1e-5 <= uniform <= before + share + 1e-5


@dtypes
@sizes
def test_without_a_temperature_it_is_the_first_of_the_likeliest(
    size: int, dtype: torch.dtype
) -> None:
    scores_BV = scores_of(5, size, dtype).round()  # many are equal
    ids_B = choose(scores_BV, [0.0] * 5, [0.5] * 5)
    assert torch.equal(ids_B, scores_BV.argmax(dim=-1))


@dtypes
@sizes
@pytest.mark.parametrize("share", [0.0, 0.02, 0.7])
def test_under_a_mask_it_is_the_likeliest_legal_one(
    size: int, dtype: torch.dtype, share: float
) -> None:
    scores_BV, mask_BW = scores_of(5, size, dtype), mask_of(5, size, share=share)
    legal_BV = scores_BV.masked_fill(~is_legal(mask_BW, size), -torch.inf)
    assert torch.equal(choose(scores_BV, [0.0] * 5, [0.5] * 5, mask_BW), legal_BV.argmax(dim=-1))
    temperatures, uniforms = [0.3, 1.0, 1.0, 2.0, 1e-30], [0.0, 0.2, 0.999_999_999, 0.7, 0.5]
    ids_B = choose(scores_BV, temperatures, uniforms, mask_BW)
    assert is_legal(mask_BW, size).gather(1, ids_B[:, None]).all()
    assert_drawn(legal_BV, ids_B, temperatures, uniforms)


@dtypes
@sizes
@pytest.mark.parametrize("scale", [0.0, 3.0, 60.0])
def test_a_token_is_drawn_where_the_probabilities_pass_the_number(
    size: int, dtype: torch.dtype, scale: float
) -> None:
    temperatures, uniforms = zip(
        *product([0.3, 1.0, 2.5], [0.0, 0.1, 0.5, 0.999, 1 - 2**-53]), strict=True
    )
    scores_BV = scores_of(len(uniforms), size, dtype, scale=scale)
    assert_drawn(scores_BV, choose(scores_BV, temperatures, uniforms), temperatures, uniforms)


def test_each_token_is_drawn_as_often_as_it_is_probable() -> None:
    size, num = 200, 20_000
    scores_V = scores_of(1, size, torch.float32, scale=1.0)[0]
    uniforms = [(i + 0.5) / num for i in range(num)]
    drawn_B = choose(scores_V.expand(num, -1), [1.0] * num, uniforms)
    shares_V = drawn_B.bincount(minlength=size) / num
    assert (shares_V - scores_V.softmax(dim=0)).abs().max() < 2 / num


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_with_scores_that_are_no_numbers_are_left_to_others(
    broken: float, temperature: float
) -> None:
    scores_BV = scores_of(4, 100, torch.float32)
    scores_BV[1, 70], scores_BV[2] = broken, -math.inf
    ids_B = choose(scores_BV, [temperature] * 4, [0.5] * 4)
    assert ids_B[1] == ids_B[2] == -1
    assert (ids_B[[0, 3]] >= 0).all()
    mask_BW = mask_of(4, 100, share=1.0)
    mask_BW[1, 70 // 32] ^= 1 << 70 % 32
    assert choose(scores_BV, [temperature] * 4, [0.5] * 4, mask_BW)[1] >= 0, "it is not legal"
    mask_BW[:] = 0
    assert choose(scores_BV, [temperature] * 4, [0.5] * 4, mask_BW).tolist() == [-1] * 4


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_row_gets_the_same_token_on_any_threads_and_beside_any_rows(num_threads: int) -> None:
    scores_BV, mask_BW = scores_of(9, 5001, torch.bfloat16), mask_of(9, 5001, share=0.5)
    temperatures, uniforms = [0.0, 0.7, 1.0] * 3, [i / 9 for i in range(9)]
    torch.set_num_threads(num_threads)
    together_B = choose(scores_BV, temperatures, uniforms, mask_BW)
    for i in range(9):
        row = slice(i, i + 1)
        alone = choose(scores_BV[row], temperatures[row], uniforms[row], mask_BW[row])
        assert alone == together_B[i]


def test_scores_that_do_not_lie_one_after_another_are_read_as_they_are() -> None:
    scores_BV = scores_of(4, 200, torch.float32)
    every_other = scores_BV[:, ::2]
    assert torch.equal(choose(every_other, [0.0] * 4, [0.5] * 4), every_other.argmax(dim=-1))


@dtypes
def test_sampling_takes_it_for_rows_of_which_no_more_is_asked(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_BV, mask_BW = scores_of(6, 5001, dtype), mask_of(6, 5001, share=0.5)
    scores_BV[5, 2500] = math.nan  # legal in any mask
    uniforms = [0.1, 0.3, 0.5, 0.7, 0.9, 0.2]
    params = [
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_k=3),
        SamplingParams(temperature=1.0, top_p=0.4),
        SamplingParams(temperature=2.0, min_p=0.01),
        SamplingParams(temperature=1e-320),
    ]
    assert takes_scores(scores_BV)
    for mask in (None, mask_BW):
        ours = sample(scores_BV.clone(), params, uniforms, mask_BW=mask)
        with monkeypatch.context() as patched:
            patched.setattr(sampling, "takes_scores", lambda scores_BV: False)
            torchs = sample(scores_BV.clone(), params, uniforms, mask_BW=mask)
        assert torch.equal(ours, torchs)


def test_it_takes_large_vocabularies_on_a_processor() -> None:
    assert takes_scores(torch.zeros(1, LEAST))
    assert not takes_scores(torch.zeros(1, LEAST - 1))
    assert not takes_scores(torch.zeros(0, LEAST))
    assert not takes_scores(torch.zeros(1, LEAST, dtype=torch.float64))
    assert not takes_scores(torch.zeros(1, LEAST, requires_grad=True))
    assert not takes_scores(torch.zeros(1, LEAST, device="meta"))
