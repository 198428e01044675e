"""A prompt's attention by the kernels is that of plain matrices.

Shapes: T tokens, G key-value heads, R queries that share one, S keys, K head width.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pharos.ops.masks import Causal, Window
from pharos.ops.native import attend_prompt, takes_prompt
from pharos.ops.paged_attention import FlatBatch, Segment, paged_attention, plain_paged_attention

pytestmark = pytest.mark.usefixtures("native")


class Case(NamedTuple):
    num_tokens: int
    num_keys: int
    groups: int = 2
    sharing: int = 7
    width: int = 64


CASES = {
    "one token": Case(1, 1),
    "the last of many": Case(1, 200),
    "less than a panel": Case(17, 17),
    "a panel": Case(64, 64),
    "one token more": Case(65, 65),
    "the next chunk": Case(40, 213),
    "heads of their own": Case(100, 130, groups=3, sharing=1),
    "one key for many": Case(30, 70, groups=1, sharing=64),
    "wide heads": Case(90, 150, groups=2, sharing=4, width=128),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Skips where torch's kernel is the one to take."""
    torch.manual_seed(case.num_keys)
    q = torch.randn(case.num_tokens, case.groups, case.sharing, case.width)
    k, v = torch.randn(2, 1, case.groups, case.num_keys, case.width)
    tensors = q.bfloat16(), k.bfloat16(), v.bfloat16()
    enough = [torch.cat([q.bfloat16()] * 16), *tensors[1:]]
    if not takes_prompt(*enough):
        pytest.skip("this processor has tiles, or does not multiply bfloat16")
    return tensors


def plain(q: Tensor, k: Tensor, v: Tensor, look_back: int | None, scale: float) -> Tensor:
    num_tokens, num_keys = len(q), k.shape[2]
    behind_TS = torch.arange(num_keys)[-num_tokens:, None] - torch.arange(num_keys)
    is_seen_TS = (
        behind_TS >= 0 if look_back is None else (behind_TS >= 0) & (behind_TS <= look_back)
    )
    scores = torch.einsum("tgrk,gsk->tgrs", q.float(), k[0].float()) * scale
    shares = scores.masked_fill(~is_seen_TS[:, None, None], -torch.inf).softmax(dim=-1)
    return torch.einsum("tgrs,gsk->tgrk", shares, v[0].float())


@cases
@pytest.mark.parametrize("look_back", [None, 0, 5, 70])
def test_it_is_that_of_matrices(case: Case, look_back: int | None) -> None:
    q, k, v = inputs(case)
    found = attend_prompt(q, k, v, look_back=look_back, scale=0.3)
    expected = plain(q, k, v, look_back, scale=0.3)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@cases
def test_without_a_scale_it_is_the_usual_one(case: Case) -> None:
    q, k, v = inputs(case)
    expected = plain(q, k, v, None, scale=case.width**-0.5)
    torch.testing.assert_close(attend_prompt(q, k, v).float(), expected, rtol=0.02, atol=0.02)


def test_a_token_sees_the_same_in_a_chunk_as_in_a_whole_text_and_with_any_threads() -> None:
    q, k, v = inputs(Case(150, 150))
    whole, threads = attend_prompt(q, k, v), torch.get_num_threads()
    parts = []
    try:
        for first, stop in ((0, 31), (31, 32), (32, 128), (128, 150)):
            torch.set_num_threads(1 + first % 3)
            parts.append(attend_prompt(q[first:stop], k[:, :, :stop], v[:, :, :stop]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts), whole)


def test_keys_may_be_a_part_of_a_larger_memory() -> None:
    q, k, v = inputs(Case(20, 90))
    memory = torch.full((2, 1, 2, 200, 64), torch.nan).bfloat16()
    memory[:, :, :, 50:140] = torch.stack([k, v])
    found = attend_prompt(q, *memory[:, :, :, 50:140])
    assert torch.equal(found, attend_prompt(q, k, v))


def test_a_key_that_is_no_number_stays_with_those_who_see_it() -> None:
    q, k, v = inputs(Case(100, 100))
    k[0, 0, 80, 3] = torch.nan
    found = attend_prompt(q, k, v)
    assert found[:80].isfinite().all()
    assert found[80:, 0].isnan().all()
    assert found[80:, 1].isfinite().all()


def test_large_scores_stay_numbers() -> None:
    q, k, v = inputs(Case(80, 80))
    found = attend_prompt(100 * q, 100 * k, v)
    torch.testing.assert_close(
        found.float(), plain(100 * q, 100 * k, v, None, scale=0.125), rtol=0.02, atol=0.02
    )


def test_what_is_not_taken() -> None:
    q, k, v = inputs(Case(20, 20))
    assert takes_prompt(q, k, v)
    assert not takes_prompt(q.float(), k.float(), v.float())
    assert not takes_prompt(q[..., :32], k[..., :32], v[..., :32])
    assert not takes_prompt(q[:15], k, v)
    assert not takes_prompt(q, k, v[:, :, 1:])
    assert not takes_prompt(q, k[:, 1:], v[:, 1:])
    assert not takes_prompt(q, k[:, :, ::2], v[:, :, ::2])
    assert not takes_prompt(q.repeat(1, 1, 10, 1), k, v)
    assert not takes_prompt(q.requires_grad_(), k, v)
    with torch.no_grad():
        assert takes_prompt(q, k, v)


def test_keys_of_no_weight_at_all_are_passed_over() -> None:
    q, k, v = inputs(Case(100, 100))
    k[:, :, :64], q[:, ...] = -1e30, 1e30
    k[:, :, 64:] = 0.0
    found = attend_prompt(q, k, v).float()
    expected = torch.stack([v[0, :, 64 : t + 1].float().mean(dim=1) for t in range(64, 100)])
    torch.testing.assert_close(
        found[64:], expected[:, :, None].expand_as(found[64:]), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("look_back", [None, 40])
@pytest.mark.parametrize("table", [[0, 1, 2, 3, 4, 5], [7, 2, 9, 4, 0, 11]], ids=str)
def test_keys_in_blocks_are_those_of_their_sequence(
    table: list[int], look_back: int | None
) -> None:
    inputs(Case(20, 90))
    segments = [Segment(table, 37, 50), Segment([6], 0, 1), Segment([8, 10], 3, 20)]
    batch = FlatBatch(segments, block_size=16)
    q = torch.randn(71, 6, 64).bfloat16()
    kv = torch.full((2, 2, 12, 16, 64), torch.nan).bfloat16()
    for segment in segments:
        for position in range(segment.stop):
            block, place = segment.table[position // 16], position % 16
            kv[:, :, block, place] = torch.randn(2, 2, 64).bfloat16()
    mask = Causal() if look_back is None else Causal() & Window(left=look_back)
    found = paged_attention(q, kv, batch, mask=mask)
    expected = plain_paged_attention(q.float(), kv.float(), batch, mask=mask)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
