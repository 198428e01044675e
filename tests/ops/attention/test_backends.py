"""Every backend computes the same function as the plain one, and has its properties."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_strategies import masks, seeds
from torch import Tensor

from pharos.ops.attention import Backend, attention, choose_backend, tiles
from pharos.ops.attention.triton import can_use_triton
from pharos.ops.masks import Causal, Documents, Full, Mask, Strided, Valid, Window
from pharos.ops.positions import Alibi, DistanceBias, Rope

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
WITHOUT_TRITON: list[Backend] = ["plain", "sdpa", "tiled"]
SMALL_TILES = {"ROWS": 32, "KEYS_IN_BLOCK": 16, "TILE": 32 * 64}

interpreted = pytest.mark.skipif(
    torch.cuda.is_available() or not can_use_triton(torch.zeros(1, 1, 1, 16)),
    reason="needs triton, and no GPU: there it would not be interpreted",
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@dataclass(frozen=True, kw_only=True)
class Problem:
    q_BHTK: Tensor
    k_BGSK: Tensor
    v_BGSV: Tensor
    mask: Mask
    bias: DistanceBias | None
    q_start: int
    scale: float | None = None

    def to(self, device: str) -> "Problem":
        bias = self.bias and DistanceBias(self.bias.values_HR.to(device), self.bias.zero)
        q_BHTK, k_BGSK, v_BGSV = (x.to(device) for x in (self.q_BHTK, self.k_BGSK, self.v_BGSV))
        mask: Mask = moved(self.mask, device)
        return replace(self, q_BHTK=q_BHTK, k_BGSK=k_BGSK, v_BGSV=v_BGSV, mask=mask, bias=bias)


def moved(mask: Any, device: str) -> Any:
    """A mask whose tensors, and those of the masks in it, are on the device."""
    if isinstance(mask, Tensor):
        return mask.to(device)
    if not is_dataclass(mask):
        return mask
    return type(mask)(*(moved(getattr(mask, field.name), device) for field in fields(mask)))


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
    longest: int = 300,
    most: int = 3,
) -> Problem:
    sequences, groups = draw(st.integers(1, most)), draw(st.integers(1, most))
    heads = groups * draw(st.integers(1, most))
    num_queries, num_keys = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    q_start = draw(st.sampled_from([0, max(num_keys - num_queries, 0), 17]))
    width, value_width = draw(st.sampled_from([8, 16, 24])), draw(st.sampled_from([8, 16]))
    length = max(num_keys, q_start + num_queries)
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(seeds))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    table_HR = torch.randn(heads, 2 * length - 1, generator=generator)
    bias = draw(
        st.sampled_from([None, Alibi(heads).bias(length), DistanceBias(table_HR, length - 1)])
    )
    return Problem(
        q_BHTK=noise(sequences, heads, num_queries, width),
        k_BGSK=noise(sequences, groups, num_keys, width),
        v_BGSV=noise(sequences, groups, num_keys, value_width),
        mask=draw(masks(sequences=sequences, heads=heads, length=length)),
        bias=bias,
        q_start=q_start,
        scale=draw(st.sampled_from([None, 0.3])),
    )


def out_and_gradients(problem: Problem, backend: Backend) -> list[Tensor]:
    """What comes out, and the gradients of q, k, v and, if there is one, of the bias."""
    inputs = [x.clone().requires_grad_() for x in (problem.q_BHTK, problem.k_BGSK, problem.v_BGSV)]
    bias = problem.bias
    if bias is not None:
        inputs.append(bias.values_HR.clone().requires_grad_())
        bias = DistanceBias(inputs[3], bias.zero)
    out = attention(
        *inputs[:3],
        mask=problem.mask,
        bias=bias,
        scale=problem.scale,
        q_start=problem.q_start,
        backend=backend,
    )
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad(out, inputs, towards)]


def assert_equals_plain(problem: Problem, backend: Backend) -> None:
    """Within rounding, relative to the greatest entry of all, or to what the terms of a sum over
    the queries amount to if they cancel."""
    expected = out_and_gradients(problem, "plain")
    tolerance = TOLERANCE[problem.q_BHTK.dtype]
    of_terms = (problem.q_BHTK.shape[1] * problem.q_BHTK.shape[2]) ** 0.5 / 4
    limit = tolerance * max(1.0, of_terms, *(x.abs().max().item() for x in expected))
    for one, other in zip(expected, out_and_gradients(problem, backend), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(other, one, atol=limit, rtol=tolerance)


@settings(deadline=None, max_examples=60)
@given(problem=problems(dtypes=(torch.float32,)))  # bfloat16 it rounds at every step
def test_torchs_kernels_equal_the_plain_twin(problem: Problem) -> None:
    assert_equals_plain(problem.to("cpu"), "sdpa")


@settings(deadline=None, max_examples=100)
@given(problem=problems(), small=st.booleans())
def test_tiles_equal_the_plain_twin(problem: Problem, small: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_TILES.items() if small else ():
            patch.setattr(tiles, name, value)
        assert_equals_plain(problem, "tiled")


@interpreted
@settings(deadline=None, max_examples=8)
@given(problem=problems(dtypes=(torch.float32, torch.float16), longest=150, most=2))
def test_interpreted_kernels_equal_the_plain_twin(problem: Problem) -> None:
    assert_equals_plain(problem, "triton")


@pytest.mark.gpu
@on_gpu
@settings(deadline=None, max_examples=100)
@given(problem=problems(dtypes=(torch.float32, torch.float16, torch.bfloat16), longest=600))
def test_kernels_equal_the_plain_twin(problem: Problem) -> None:
    assert_equals_plain(problem.to("cuda"), "triton")


def heads_of(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """q of four heads, k and v of two: `[2, 4 or 2, *shape, 16]`."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, *shape, 16, generator=generator) for heads in (4, 2, 2))
    return q, k, v


every_backend = pytest.mark.parametrize(
    "backend", [*WITHOUT_TRITON, pytest.param("triton", marks=interpreted)]
)


@every_backend
def test_future_tokens_do_not_change_the_past(backend: Backend) -> None:
    q, k, v = heads_of(70)
    before = attention(q, k, v, mask=Causal(), backend=backend)
    for x in (q, k, v):
        x[:, :, 41:] += 100.0
    after = attention(q, k, v, mask=Causal(), backend=backend)
    assert torch.equal(before[:, :, :41], after[:, :, :41])


@every_backend
def test_padding_changes_nothing(backend: Backend) -> None:
    q, k, v = heads_of(70)
    short = attention(*(x[:, :, :50] for x in (q, k, v)), mask=Causal(), backend=backend)
    valid_BS = (torch.arange(70) < 50).expand(2, -1)
    long = attention(q, k, v, mask=Causal() & Valid(valid_BS), backend=backend)
    torch.testing.assert_close(long[:, :, :50], short, atol=1e-6, rtol=1e-5)
    for x in (k, v):
        x[:, :, 50:] = 1e4
    garbage = attention(q, k, v, mask=Causal() & Valid(valid_BS), backend=backend)
    assert torch.equal(garbage, long)


@every_backend
def test_a_packed_batch_equals_one_document_at_a_time(backend: Backend) -> None:
    q, k, v = heads_of(90)
    lengths = [40, 1, 30, 19]
    ids_BT = torch.repeat_interleave(torch.tensor(lengths)).expand(2, -1)
    packed = attention(q, k, v, mask=Causal() & Documents(ids_BT), backend=backend)
    documents = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    alone = [attention(*document, mask=Causal(), backend=backend) for document in documents]
    torch.testing.assert_close(packed, torch.cat(alone, dim=2), atol=1e-6, rtol=1e-5)


@every_backend
def test_queries_in_pieces_equal_all_at_once(backend: Backend) -> None:
    q, k, v = heads_of(70)
    mask, bias = Causal() & Window(30), Alibi(4).bias(70)
    at_once = attention(q, k, v, mask=mask, bias=bias, backend=backend)
    pieces = [
        attention(piece, k, v, mask=mask, bias=bias, q_start=start, backend=backend)
        for start, piece in zip((0, 33, 66), q.split(33, dim=2), strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=2), at_once, atol=1e-6, rtol=1e-5)


@every_backend
def test_rope_and_alibi_make_attention_depend_on_the_distance_only(backend: Backend) -> None:
    q, k, v = heads_of(40)
    bias = Alibi(4).bias(40)

    def attended(first_position: int) -> Tensor:
        turn = Rope(width=16).rotation(torch.arange(40)[None] + first_position)
        return attention(turn(q), turn(k), v, mask=Causal(), bias=bias, backend=backend)

    torch.testing.assert_close(attended(0), attended(1000), atol=1e-4, rtol=1e-3)


@every_backend
def test_a_query_that_may_look_at_nothing_gets_zeros_and_passes_no_gradient(
    backend: Backend,
) -> None:
    q, k, v = (x.requires_grad_() for x in heads_of(40))
    out = attention(q, k, v, mask=Valid(torch.zeros(2, 40, dtype=torch.bool)), backend=backend)
    out.sum().backward()
    assert not out.any()
    for x in (q, k, v):
        assert x.grad is not None and not x.grad.any()


@every_backend
def test_far_apart_scores_neither_overflow_nor_vanish(backend: Backend) -> None:
    q, k, v = heads_of(50)
    plain = attention(100 * q, k, v, mask=Causal(), backend="plain")
    torch.testing.assert_close(
        attention(100 * q, k, v, mask=Causal(), backend=backend), plain, atol=1e-4, rtol=1e-4
    )


def test_dropout_is_refused_where_it_cannot_be() -> None:
    q, k, v = heads_of(8)
    with pytest.raises(ValueError, match=r"dropout 0\.1 with the tiled backend"):
        attention(q, k, v, dropout=0.1, backend="tiled")
    assert choose_backend(q, k, mask=Window(2), bias=None, dropout=0.1) == "sdpa"


def test_dropout_keeps_the_mean() -> None:
    q, k, _ = heads_of(64)
    backends: tuple[Backend, ...] = ("plain", "sdpa")
    for backend in backends:
        out = attention(q, k, torch.ones(2, 2, 64, 16), dropout=0.3, backend=backend)
        assert out.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("mask", [Full(), Causal()])
def test_long_inputs_go_to_the_tiles_only_where_torch_would_need_a_matrix(mask: Mask) -> None:
    q_BHTK = k_BGSK = torch.empty(1, 1, 8192, 16)
    assert choose_backend(q_BHTK, k_BGSK, mask=mask, bias=None, dropout=0.0) == "sdpa"
    for other, bias in ((mask & Window(4), None), (mask | Strided(9), Alibi(1).bias(8192))):
        if other != Full() or bias:
            assert choose_backend(q_BHTK, k_BGSK, mask=other, bias=bias, dropout=0.0) == "tiled"


def test_shapes_that_do_not_fit_are_refused_with_the_shapes() -> None:
    q, k, v = heads_of(8)
    with pytest.raises(ValueError, match=r"q \(2, 3, 8, 16\).*multiple of key heads"):
        attention(q[:, :3], k, v)
    with pytest.raises(ValueError, match="a value for each key"):
        attention(q, k, v[:, :, :5])
    with pytest.raises(ValueError, match="choose from plain, sdpa, tiled, triton"):
        attention(q, k, v, backend="flash")  # type: ignore[arg-type]
