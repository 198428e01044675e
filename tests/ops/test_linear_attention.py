import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pharos.ops.linear_attention import (
    CHUNK,
    LinearAttentionState,
    features,
    linear_attention,
    plain_linear_attention,
)


def qkv(length: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 3, length, 8), (2, 3, length, 8), (2, 3, length, 5))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    causal=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_sums_over_keys_equal_sums_over_pairs_forward_and_backward(
    length: int, seed: int, causal: bool, dtype: torch.dtype
) -> None:
    results = []
    for fast in (True, False):
        inputs = [x.requires_grad_() for x in qkv(length, seed=seed, dtype=dtype)]
        out = (linear_attention if fast else plain_linear_attention)(*inputs, causal=causal)
        assert out.dtype == dtype
        results.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for one, other in zip(*results, strict=True):
        limit = tolerance * max(1.0, one.abs().max().item())
        torch.testing.assert_close(one, other, atol=limit, rtol=tolerance)


def test_token_by_token_equals_the_whole_sequence() -> None:
    q, k, v = qkv(CHUNK + 10)
    state, outs = LinearAttentionState.after(k[:, :, :0], v[:, :, :0]), []
    for t in range(q.shape[2]):
        out, state = state.step(q[:, :, t], k[:, :, t], v[:, :, t])
        outs.append(out)
    expected = plain_linear_attention(q, k, v, causal=True)
    torch.testing.assert_close(torch.stack(outs, dim=2), expected, atol=1e-5, rtol=1e-4)


def test_the_state_behind_a_prompt_goes_on_as_if_it_had_been_read_token_by_token() -> None:
    q, k, v = qkv(50)
    state = LinearAttentionState.after(k[:, :, :49], v[:, :, :49])
    out, _ = state.step(q[:, :, 49], k[:, :, 49], v[:, :, 49])
    expected = linear_attention(q, k, v, causal=True)[:, :, 49]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_future_tokens_do_not_change_the_past() -> None:
    q, k, v = qkv(100)
    before = linear_attention(q, k, v, causal=True)
    for x in (q, k, v):
        x[:, :, 70:] += 10.0
    after = linear_attention(q, k, v, causal=True)
    torch.testing.assert_close(before[:, :, :70], after[:, :, :70])


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(causal: bool) -> None:
    q, k, v = qkv(50)
    short = linear_attention(q[:, :, :30], k[:, :, :30], v[:, :, :30], causal=causal)
    valid_BS = (torch.arange(50) < 30).expand(2, -1)
    padded = linear_attention(q, k, v, causal=causal, valid_BS=valid_BS)
    torch.testing.assert_close(padded[:, :, :30], short)


def test_causal_needs_a_key_for_each_query() -> None:
    q, k, v = qkv(10)
    with pytest.raises(ValueError, match="4 queries and 10 keys"):
        linear_attention(q[:, :, :4], k, v, causal=True)


def test_features_are_positive_so_that_shares_are() -> None:
    assert (features(torch.linspace(-20, 20, 100)) >= 0).all()
    assert features(torch.tensor([2.0])).item() == pytest.approx(3.0)


def test_queries_without_a_key_near_them_stay_finite() -> None:
    q, k, v = qkv(10)
    assert linear_attention(q - 200, k - 200, v, causal=False).isfinite().all()
