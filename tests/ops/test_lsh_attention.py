import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pharos.ops.attention import attention
from pharos.ops.lsh_attention import (
    hash_buckets,
    keys_of,
    lsh_attention,
    plain_lsh_attention,
)
from pharos.ops.masks import Strided

HERE = torch.arange(60)


def shared(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    qk_BHTK = torch.randn(2, 3, length, 8, generator=generator)
    return qk_BHTK, torch.randn(2, 3, length, 5, generator=generator)


def buckets_of(qk_BHTK: Tensor, num_buckets: int = 4, num_rounds: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return hash_buckets(
        qk_BHTK, num_buckets=num_buckets, num_rounds=num_rounds, generator=generator
    )


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 200),
    chunk=st.integers(1, 50),
    num_buckets=st.sampled_from([2, 8]),
    num_rounds=st.integers(1, 4),
    causal=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounds_of_sorted_chunks_equal_attention_over_all_pairs_that_meet(
    length: int, chunk: int, num_buckets: int, num_rounds: int, causal: bool, seed: int
) -> None:
    results = []
    for function in (lsh_attention, plain_lsh_attention):
        inputs = [x.requires_grad_() for x in shared(length, seed)]
        buckets = buckets_of(inputs[0], num_buckets, num_rounds)
        out = function(*inputs, buckets_BHRT=buckets, chunk=chunk, causal=causal)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_one_bucket_and_one_chunk_for_all_is_exact_attention(num_rounds: int) -> None:
    qk_BHTK, v_BHTV = shared(60)
    buckets = torch.zeros(2, 3, num_rounds, 60, dtype=torch.long)
    out = lsh_attention(qk_BHTK, v_BHTV, buckets_BHRT=buckets, chunk=60, causal=False)
    scores = (qk_BHTK @ keys_of(qk_BHTK).mT).masked_fill(
        torch.eye(60, dtype=torch.bool), float("-inf")
    )
    torch.testing.assert_close(out, scores.softmax(dim=-1) @ v_BHTV, atol=1e-6, rtol=1e-5)


def test_buckets_that_fit_their_chunks_are_exact_attention_within_them() -> None:
    """Tokens of one bucket are those that a stride apart: two of them, of 30 tokens each."""
    qk_BHTK, v_BHTV = shared(60)
    buckets = (HERE % 2).expand(2, 3, 1, -1)
    out = lsh_attention(qk_BHTK, v_BHTV, buckets_BHRT=buckets, chunk=30, causal=False)

    class OthersOfMyStride(Strided):
        def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
            return super().allows(q_T, k_S) & (q_T[:, None] != k_S)

    expected = attention(
        qk_BHTK, keys_of(qk_BHTK), v_BHTV, mask=OthersOfMyStride(2), scale=1.0, backend="plain"
    )
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_future_tokens_in_the_same_buckets_do_not_change_the_past() -> None:
    qk_BHTK, v_BHTV = shared(60)
    buckets = buckets_of(qk_BHTK)
    before = plain_and_fast(qk_BHTK, v_BHTV, buckets)
    qk_BHTK[:, :, 40:] *= 2.0  # a longer vector hashes alike
    v_BHTV[:, :, 40:] += 10.0
    for one, other in zip(before, plain_and_fast(qk_BHTK, v_BHTV, buckets), strict=True):
        torch.testing.assert_close(one[:, :, :40], other[:, :, :40])


def plain_and_fast(qk_BHTK: Tensor, v_BHTV: Tensor, buckets: Tensor) -> list[Tensor]:
    return [
        function(qk_BHTK, v_BHTV, buckets_BHRT=buckets, chunk=16, causal=True)
        for function in (plain_lsh_attention, lsh_attention)
    ]


def test_a_token_that_meets_no_other_attends_to_itself() -> None:
    qk_BHTK, v_BHTV = shared(60)
    buckets = HERE.expand(2, 3, 2, -1)
    out = lsh_attention(qk_BHTK, v_BHTV, buckets_BHRT=buckets, chunk=8, causal=False)
    torch.testing.assert_close(out, v_BHTV)


def test_near_vectors_hash_alike_and_opposite_ones_never() -> None:
    qk_BHTK, _ = shared(60)
    buckets = buckets_of(qk_BHTK, num_buckets=8, num_rounds=4)
    assert torch.equal(buckets, buckets_of(3 * qk_BHTK, num_buckets=8, num_rounds=4))
    assert (buckets != buckets_of(-qk_BHTK, num_buckets=8, num_rounds=4)).all()
    assert set(buckets.unique().tolist()) == set(range(8))


def test_more_rounds_come_nearer_to_exact_attention() -> None:
    qk_BHTK, v_BHTV = shared(200)
    everyone = torch.zeros(2, 3, 1, 200, dtype=torch.long)
    exact = lsh_attention(qk_BHTK, v_BHTV, buckets_BHRT=everyone, chunk=200, causal=False)
    errors = []
    for num_rounds in (1, 4, 16):
        buckets = buckets_of(qk_BHTK, num_buckets=8, num_rounds=num_rounds)
        out = lsh_attention(qk_BHTK, v_BHTV, buckets_BHRT=buckets, chunk=50, causal=False)
        errors.append((out - exact).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


def test_padding_changes_nothing() -> None:
    qk_BHTK, v_BHTV = shared(60)
    valid_BT = (HERE < 41).expand(2, -1)
    results = []
    for length in (41, 60):
        qk, v = qk_BHTK[:, :, :length], v_BHTV[:, :, :length]
        buckets = hash_buckets(
            qk,
            num_buckets=4,
            num_rounds=2,
            generator=torch.Generator().manual_seed(1),
            valid_BT=valid_BT[:, :length],
        )
        out = lsh_attention(qk, v, buckets_BHRT=buckets, chunk=8, causal=False)
        results.append(out[:, :, :41])
    torch.testing.assert_close(*results)


def test_an_odd_number_of_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="7 buckets"):
        hash_buckets(torch.zeros(1, 1, 2, 4), num_buckets=7, num_rounds=1)
