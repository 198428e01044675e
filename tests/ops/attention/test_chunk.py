import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.ops.attention import attention
from pharos.ops.attention.chunk import chunk_attention
from pharos.ops.masks import Causal


@settings(deadline=None, max_examples=50)
@given(
    num_queries=st.integers(1, 70),
    past=st.integers(0, 70),
    groups=st.sampled_from((1, 2)),
    shared=st.sampled_from((1, 3)),
    scale=st.sampled_from((None, 0.3)),
)
def test_a_chunk_equals_the_plain_twin(
    num_queries: int, past: int, groups: int, shared: int, scale: float | None
) -> None:
    generator = torch.Generator().manual_seed(past)
    q = torch.randn(2, groups * shared, num_queries, 8, generator=generator)
    k, v = torch.randn(2, 2, groups, past + num_queries, 8, generator=generator)
    expected = attention(q, k, v, mask=Causal(), scale=scale, backend="plain")
    torch.testing.assert_close(chunk_attention(q, k, v, scale=scale), expected)


@pytest.mark.parametrize("past", [0, 9])
def test_bfloat16_is_rounded_once(past: int) -> None:
    q, k, v = torch.randn(3, 1, 2, 20 + past, 16, generator=torch.Generator().manual_seed(0))
    q = q[:, :, past:]
    expected = attention(q, k, v, mask=Causal(), backend="plain")
    found = chunk_attention(*(x.bfloat16() for x in (q, k, v)))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
