"""From logits to the next token: biases, penalties, temperature, truncation, and the draw.

Every row has parameters of its own. A row's draw depends on its seed and its step alone
(`uniform`), never on the rows beside it: a request gets the same text in any batch.

A vocabulary is long, so what is sought in it (the likeliest token, the drawn one, the likeliest
thousand) is sought in two steps: among blocks of tokens, and in what was found. On a CPU a row of
which nothing but that is asked is left to a kernel (`ops.native.sampling`).

Shapes: B rows, M of them with a mask, V vocabulary, C candidates, N blocks of tokens, W words of 32
tokens, Y bytes of 8.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding, pad

from pharos.core import SamplingParams
from pharos.ops.native import choose, takes_scores

COLDEST, HOTTEST = 1e-30, 1e30
"""Temperatures beyond are taken for these: float32 would make zero or infinity of them."""
LAST_RESORT = -1e30
"""Added to a token that is not to be drawn unless every other one is forbidden."""

BROKEN = torch.finfo(torch.float32).min
"""Instead of a legal token's score that is no number."""

WORD = 2**64 - 1
PHILOX_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
PHILOX_INCREMENTS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
MOST_SORTED = 1024
"""So many of the likeliest tokens are looked at first for `top_k` and `top_p`."""
BLOCK = 64
"""Tokens that are first looked at as one. It divides the size of most vocabularies."""


class Seen(NamedTuple):
    """How often each token stands in the prompt and in what was generated, each `[B, V]`."""

    prompt_BV: Tensor
    output_BV: Tensor


def sample(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    seen: Seen | None = None,
    mask_BW: NDArray[np.int32] | None = None,
) -> Tensor:
    """The next token of each row, `[B]`. `uniforms` are in [0, 1), one a row; `seen` is needed by
    rows with penalties only. Of a mask, bit `t % 32` of word `t // 32` is set where token `t` is
    legal. Logits in float32 may be written to where there is a mask."""
    if seen is not None:
        logits_BV = penalized(logits_BV.float(), params, seen)
    if logits_BV.dtype == torch.float16:  # which the kernel does not read
        logits_BV = logits_BV.float()
    is_truncated = [_is_truncated(p) for p in params]
    if all(is_truncated) or not takes_scores(logits_BV):
        return _sample_by_torch(logits_BV, params, uniforms, mask_BW)
    temperatures = [
        0.0 if left else _temperature(p) for p, left in zip(params, is_truncated, strict=True)
    ]
    ids_B = choose(logits_BV, temperatures, uniforms, mask_BW)
    found = zip(ids_B.tolist(), is_truncated, strict=True)
    left = [row for row, (id_, is_left) in enumerate(found) if id_ < 0 or is_left]
    if left:
        mask = None if mask_BW is None else mask_BW[left]
        of_left = [params[row] for row in left], [uniforms[row] for row in left]
        ids_B[left] = _sample_by_torch(logits_BV[left], *of_left, mask)
    return ids_B


def _sample_by_torch(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    mask_BW: NDArray[np.int32] | None,
) -> Tensor:
    """`sample` without the kernel."""
    logits_BV = logits_BV.float()
    if mask_BW is not None:
        mask_scores(logits_BV, mask_BW)
    rows = [row for row, p in enumerate(params) if p.temperature > 0.0]
    if rows and len(rows) == len(params):
        return draw(probabilities(logits_BV, params), uniforms)
    ids_B = likeliest(logits_BV)
    if rows:
        shares_RV = probabilities(logits_BV[rows], [params[row] for row in rows])
        ids_B[rows] = draw(shares_RV, [uniforms[row] for row in rows])
    return ids_B


def mask_scores(scores_BV: Tensor, mask_BW: NDArray[np.int32]) -> None:
    """Leaves only the legal tokens' scores, in place. Rows without a mask are not touched. Scores
    of a broken model become numbers, so that a legal token is drawn nonetheless."""
    rows = np.flatnonzero((~mask_BW).any(axis=1))
    bytes_MY = torch.from_numpy(mask_BW[rows].view(np.uint8)).to(scores_BV.device)
    bounds_MY8 = embedding(bytes_MY.int(), _bounds_of_bytes(scores_BV.device))
    bounds_MV = bounds_MY8.flatten(1)[:, : scores_BV.shape[1]]
    rows_M = torch.from_numpy(rows).to(scores_BV.device)
    scores_MV = scores_BV if len(rows) == len(scores_BV) else scores_BV[rows_M]
    torch.minimum(scores_MV, bounds_MV, out=scores_MV)
    broken = (~scores_MV.amax(dim=-1).isfinite()).nonzero()[:, 0].tolist()
    for i in broken:
        scores_MV[i].nan_to_num_(nan=BROKEN, neginf=BROKEN)
        torch.minimum(scores_MV[i], bounds_MV[i], out=scores_MV[i])
    if scores_MV is not scores_BV:
        scores_BV.index_copy_(0, rows_M, scores_MV)


def likeliest(logits_BV: Tensor) -> Tensor:
    """`argmax` of each row, `[B]`: the first of equal ones. (On a processor torch finds the largest
    value many times as fast as the place where it stands.)"""
    blocks_BNC = _blocks(logits_BV, -torch.inf)
    block_B1 = blocks_BNC.amax(dim=-1).argmax(dim=-1, keepdim=True)
    return block_B1[:, 0] * BLOCK + _of_block(blocks_BNC, block_B1).argmax(dim=-1)


def bias_of(
    params: SamplingParams, num_generated: int, end_ids: Collection[int]
) -> Mapping[int, float]:
    """What is added to a row's logits, by token: its `logit_bias`, and what keeps a text from
    ending before it has `min_tokens`."""
    if num_generated >= params.min_tokens:
        return params.logit_bias
    return {**params.logit_bias, **dict.fromkeys(end_ids, LAST_RESORT)}


def biased(logits_BV: Tensor, biases: Sequence[Mapping[int, float]]) -> Tensor:
    """Logits with each row's biases added to the tokens they name."""
    if not any(biases):
        return logits_BV
    rows = [row for row, bias in enumerate(biases) for _ in bias]
    ids = [id_ for bias in biases for id_ in bias]
    added = [value for bias in biases for value in bias.values()]
    at = (torch.tensor(rows, device=logits_BV.device), torch.tensor(ids, device=logits_BV.device))
    added_N = torch.tensor(added, dtype=logits_BV.dtype, device=logits_BV.device)
    return logits_BV.index_put(at, logits_BV[at] + added_N)


def penalized(logits_BV: Tensor, params: Sequence[SamplingParams], seen: Seen) -> Tensor:
    """Logits after the repetition, frequency and presence penalties."""
    column = partial(_column, params, like=logits_BV)
    repetition_B1 = column("repetition_penalty")
    is_seen_BV = (seen.prompt_BV + seen.output_BV) > 0
    divided_BV = logits_BV / repetition_B1
    fainter_BV = torch.where(logits_BV > 0, divided_BV, logits_BV * repetition_B1)
    logits_BV = torch.where(is_seen_BV, fainter_BV, logits_BV)
    logits_BV = logits_BV - column("frequency_penalty") * seen.output_BV
    return logits_BV - column("presence_penalty") * (seen.output_BV > 0)


def penalized_at(
    logits_BV: Tensor, params: Sequence[SamplingParams], counts: Sequence[Mapping[int, int]]
) -> Tensor:
    """The same as `penalized`, where only the tokens that were seen are looked at: `counts` says
    how often each row generated them (0: it stands in the prompt)."""
    rows = [row for row, seen in enumerate(counts) for _ in seen]
    ids = [id_ for seen in counts for id_ in seen]
    device = logits_BV.device
    rows_N = torch.tensor(rows, dtype=torch.long, device=device)
    at = (rows_N, torch.tensor(ids, dtype=torch.long, device=device))
    generated_N = torch.tensor([n for seen in counts for n in seen.values()], device=device)
    repetition_N, frequency_N, presence_N = (
        _column(params, f"{name}_penalty", like=logits_BV)[rows_N, 0]
        for name in ("repetition", "frequency", "presence")
    )
    scores_N = logits_BV[at]
    scores_N = torch.where(scores_N > 0, scores_N / repetition_N, scores_N * repetition_N)
    scores_N = scores_N - frequency_N * generated_N - presence_N * (generated_N > 0)
    return logits_BV.index_put(at, scores_N)


def probabilities(logits_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The distribution `[B, V]` that is drawn from: temperature, then top-k, top-p and min-p. The
    likeliest token is always in it; a temperature of 0 counts as 1."""
    column = partial(_column, params, like=logits_BV)
    temperatures = [[_temperature(p) or 1.0] for p in params]
    temperature_B1 = torch.tensor(temperatures, device=logits_BV.device)
    logits_BV = logits_BV.float()
    logits_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)).div_(temperature_B1)
    rows = [row for row, p in enumerate(params) if p.top_k or p.top_p < 1.0]
    if rows:
        truncated_RV = _truncated(logits_BV[rows], column("top_k")[rows], column("top_p")[rows])
        logits_BV = logits_BV.index_copy(
            0, torch.tensor(rows, device=logits_BV.device), truncated_RV
        )
    shares_BV = logits_BV.softmax(dim=-1)
    if any(p.min_p for p in params):
        least_B1 = column("min_p") * shares_BV.amax(dim=-1, keepdim=True)
        kept_BV = shares_BV.masked_fill(shares_BV < least_B1, 0.0)
        kept_BV = kept_BV / kept_BV.sum(dim=-1, keepdim=True)
        shares_BV = torch.where(least_B1 > 0, kept_BV, shares_BV)
    return shares_BV


def draw(shares_BV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """The token at which each row's cumulative probability passes the row's uniform number (inverse
    transform sampling), looked up among the blocks, then in one. A token without a share is never
    drawn."""
    uniforms_B1 = torch.tensor(uniforms, dtype=torch.float64, device=shares_BV.device)[:, None]
    blocks_BNC = _blocks(shares_BV, 0.0)
    sums_BN = blocks_BNC.sum(dim=-1).double().cumsum(dim=-1)
    block_B1, before_B1 = _inverse_cdf(sums_BN, uniforms_B1 * sums_BN[:, -1:])
    inside_BC = _of_block(blocks_BNC, block_B1).double().cumsum(dim=-1)
    place_B1, _ = _inverse_cdf(inside_BC, uniforms_B1 * sums_BN[:, -1:] - before_B1)
    drawn_B = (block_B1 * BLOCK + place_B1)[:, 0]
    return drawn_B.clamp(max=shares_BV.shape[1] - 1)  # of what is no number


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) for a step of a request: Philox 4x64 of ten rounds (Salmon et al. 2011), a
    counter through a cipher, so there is no state that another request could change. It is the
    number that numpy's generator of that key and counter begins with."""
    key_0, key_1 = seed & WORD, 0
    a, b, c, d = step + 1, 0, 0, 0
    for _ in range(10):
        ab, cd = PHILOX_MULTIPLIERS[0] * a, PHILOX_MULTIPLIERS[1] * c
        a, b, c, d = cd >> 64 ^ b ^ key_0, cd & WORD, ab >> 64 ^ d ^ key_1, ab & WORD
        key_0 = key_0 + PHILOX_INCREMENTS[0] & WORD
        key_1 = key_1 + PHILOX_INCREMENTS[1] & WORD
    return (a >> 11) / 2**53


def needs_seen(params: Sequence[SamplingParams]) -> bool:
    """Whether a row has a penalty."""
    return any(
        p.repetition_penalty != 1.0 or p.presence_penalty or p.frequency_penalty for p in params
    )


def _temperature(params: SamplingParams) -> float:
    """One that float32 can divide by, or 0."""
    return min(max(params.temperature, COLDEST), HOTTEST) if params.temperature else 0.0


def _is_truncated(params: SamplingParams) -> bool:
    """Whether some tokens are taken out of what is drawn from."""
    is_less = bool(params.top_k) or params.top_p < 1.0 or bool(params.min_p)
    return params.temperature > 0.0 and is_less


@cache
def _bounds_of_bytes(device: torch.device) -> Tensor:
    """For each byte of a mask the upper bounds of its eight tokens' scores, `[256, 8]`: infinity,
    or minus infinity. (Whole bytes are looked up many times as fast as single bits.)"""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits, np.inf, -np.inf)).float().to(device)


def _truncated(logits_BV: Tensor, top_k_B1: Tensor, top_p_B1: Tensor) -> Tensor:
    """Logits outside of the `top_k` likeliest, then outside of the fewest of those that reach
    `top_p` together, are -inf. Of equal ones the first are kept.

    Only the largest are sorted, for a nucleus has few tokens as a rule; all where those do not
    do."""
    vocab_size = logits_BV.shape[1]
    count = min(max(MOST_SORTED, int(top_k_B1.max())), vocab_size)
    best_BC = _largest(logits_BV, count)
    num_kept_B1 = _num_kept(best_BC, logits_BV, top_k_B1, top_p_B1)
    if count < vocab_size and bool((num_kept_B1 == count).any()):
        best_BC = _largest(logits_BV, vocab_size)
        num_kept_B1 = _num_kept(best_BC, logits_BV, top_k_B1, top_p_B1)
    return _first_best(logits_BV, best_BC.gather(1, num_kept_B1 - 1), num_kept_B1)


def _largest(logits_BV: Tensor, count: int) -> Tensor:
    """The `count` largest of each row, the largest first. (On a processor, numpy's sorting of
    values is many times as fast as torch's, which keeps track of where they come from.)"""
    if logits_BV.device.type != "cpu":
        return logits_BV.topk(count, dim=-1).values
    blocks_BN = _blocks(logits_BV, -torch.inf).amax(dim=-1).numpy()
    rows = zip(logits_BV.numpy(), blocks_BN, strict=True)
    return torch.from_numpy(np.stack([_largest_of(*row, count) for row in rows]))


def _largest_of(
    values_V: NDArray[np.float32], blocks_N: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """The `count` largest of the blocks' largest are values too: what is smaller than the least of
    these is not among the `count` largest values. (What is no number counts as largest.)"""
    if len(blocks_N) > count:
        least = np.partition(blocks_N, -count)[-count]
        values_V = values_V[~(values_V < least)]
    if len(values_V) > count:
        values_V = np.partition(values_V, -count)[-count:]
    return np.sort(values_V)[::-1]


def _num_kept(best_BC: Tensor, logits_BV: Tensor, top_k_B1: Tensor, top_p_B1: Tensor) -> Tensor:
    """How many tokens are kept, `[B, 1]`; C, which is `top_k` or more, where it may be more."""
    rank_C = torch.arange(best_BC.shape[1], device=best_BC.device)
    is_in_BC = (top_k_B1 == 0) | (rank_C < top_k_B1)
    weights_BC = (best_BC - best_BC[:, :1]).exp().double() * is_in_BC
    sums_BC = weights_BC.cumsum(dim=-1)
    total_B1 = sums_BC[:, -1:]
    if not bool((top_k_B1 > 0).all()):
        all_B1 = (logits_BV.logsumexp(dim=-1, keepdim=True) - best_BC[:, :1]).exp()
        total_B1 = torch.where(top_k_B1 > 0, total_B1, all_B1.double())
    is_needed_BC = sums_BC - weights_BC < top_p_B1 * total_B1
    is_in_BC &= is_needed_BC | (rank_C == 0) | (top_p_B1 == 1.0)
    return is_in_BC.sum(dim=-1, keepdim=True)


def _first_best(logits_BV: Tensor, least_B1: Tensor, num_kept_B1: Tensor) -> Tensor:
    """Logits above `least`, and so many of those that are `least` that there are `num_kept`."""
    is_kept_BV = logits_BV >= least_B1
    surplus_B1 = is_kept_BV.sum(dim=-1, keepdim=True, dtype=torch.int32) - num_kept_B1
    if bool(surplus_B1.any()):
        is_least_BV = logits_BV == least_B1
        room_B1 = is_least_BV.sum(dim=-1, keepdim=True) - surplus_B1
        is_kept_BV &= ~is_least_BV | (is_least_BV.cumsum(dim=-1) <= room_B1)
    return torch.where(is_kept_BV, logits_BV, float("-inf"))


def _column(params: Sequence[SamplingParams], name: str, like: Tensor) -> Tensor:
    """The rows' values of a parameter, `[B, 1]`."""
    values = [float(getattr(row, name)) for row in params]
    return torch.tensor(values, device=like.device)[:, None]


def _blocks(x_BV: Tensor, filling: float) -> Tensor:
    """`[B, N, BLOCK]`, the last one filled up."""
    count = -(-x_BV.shape[1] // BLOCK)
    missing = count * BLOCK - x_BV.shape[1]
    if missing:
        x_BV = pad(x_BV, (0, missing), value=filling)
    return x_BV.reshape(len(x_BV), count, BLOCK)


def _of_block(x_BNC: Tensor, block_B1: Tensor) -> Tensor:
    """`[B, BLOCK]`"""
    return x_BNC.take_along_dim(block_B1[:, :, None], dim=1)[:, 0]


def _inverse_cdf(sums_BN: Tensor, target_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Where a cumulative sum passes the target, and the sum before it, both `[B, 1]`. A target that
    rounding has put beyond the end is passed where the sum reaches its end."""
    end_B1 = sums_BN[:, -1:]
    target_B1 = target_B1.minimum(end_B1.nextafter(torch.zeros_like(end_B1)))
    place_B1 = torch.searchsorted(sums_BN, target_B1, right=True)
    place_B1 = place_B1.clamp(max=sums_BN.shape[1] - 1)  # of what is no number
    return place_B1, pad(sums_BN, (1, 0)).gather(1, place_B1)
