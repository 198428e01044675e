"""From logits to the next token: biases, penalties, temperature, truncation, and the draw.

Every row has parameters of its own. A row's draw depends on its seed and its step alone
(`uniform`), never on the rows beside it: a request gets the same text in any batch.

Shapes: B rows, V vocabulary, C candidates.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pharos.core import SamplingParams

COLDEST = 1e-30
"""Temperatures below it are taken for it: float32 would make zero of them."""
LAST_RESORT = -1e30
"""Added to a token that is not to be drawn unless every other one is forbidden."""


class Seen(NamedTuple):
    """How often each token stands in the prompt and in what was generated, each `[B, V]`."""

    prompt_BV: Tensor
    output_BV: Tensor


def sample(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    seen: Seen | None = None,
) -> Tensor:
    """The next token of each row, `[B]`. `uniforms` are in [0, 1), one a row; `seen` is needed by
    rows with penalties only."""
    if seen is not None:
        logits_BV = penalized(logits_BV, params, seen)
    is_greedy = [p.temperature == 0.0 for p in params]
    if all(is_greedy):
        return logits_BV.argmax(dim=-1)
    likeliest_B = logits_BV.argmax(dim=-1)
    drawn_B = draw(probabilities(logits_BV, params), uniforms)
    return torch.where(torch.tensor(is_greedy, device=logits_BV.device), likeliest_B, drawn_B)


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
    temperature_B1 = column("temperature")
    is_zero = torch.tensor([[p.temperature == 0.0] for p in params], device=logits_BV.device)
    temperature_B1 = temperature_B1.clamp(min=COLDEST).masked_fill(is_zero, 1.0)
    logits_BV = logits_BV.float()
    logits_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)) / temperature_B1
    if any(p.top_k or p.top_p < 1.0 for p in params):
        logits_BV = _truncated(logits_BV, column("top_k"), column("top_p"))
    shares_BV = logits_BV.softmax(dim=-1)
    if any(p.min_p for p in params):
        least_B1 = column("min_p") * shares_BV.amax(dim=-1, keepdim=True)
        kept_BV = shares_BV.masked_fill(shares_BV < least_B1, 0.0)
        kept_BV = kept_BV / kept_BV.sum(dim=-1, keepdim=True)
        shares_BV = torch.where(least_B1 > 0, kept_BV, shares_BV)
    return shares_BV


def draw(shares_BV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """The token at which each row's cumulative probability passes the row's uniform number."""
    sums_BV = shares_BV.double().cumsum(dim=-1)
    uniforms_B1 = torch.tensor(uniforms, dtype=torch.float64, device=shares_BV.device)[:, None]
    drawn_B1 = torch.searchsorted(sums_BV, uniforms_B1 * sums_BV[:, -1:], right=True)
    return drawn_B1[:, 0].clamp(max=shares_BV.shape[1] - 1)


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) for a step of a request: Philox (Salmon et al. 2011), a counter through a
    cipher, so there is no state that another request could change."""
    mixer = np.random.Philox(key=seed & (2**64 - 1), counter=[step, 0, 0, 0])
    return float(np.random.Generator(mixer).random())


def needs_seen(params: Sequence[SamplingParams]) -> bool:
    """Whether a row has a penalty."""
    return any(
        p.repetition_penalty != 1.0 or p.presence_penalty or p.frequency_penalty for p in params
    )


def _truncated(logits_BV: Tensor, top_k_B1: Tensor, top_p_B1: Tensor) -> Tensor:
    """Logits outside of the `top_k` likeliest, then outside of the fewest of those that reach
    `top_p` together, are -inf."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    sorted_BV = sorted_BV.masked_fill((top_k_B1 > 0) & (rank_V >= top_k_B1), float("-inf"))
    shares_BV = sorted_BV.softmax(dim=-1)
    before_BV = shares_BV.cumsum(dim=-1) - shares_BV
    is_out_BV = (before_BV >= top_p_B1) & (rank_V > 0) & (top_p_B1 < 1.0)
    sorted_BV = sorted_BV.masked_fill(is_out_BV, float("-inf"))
    return torch.empty_like(logits_BV).scatter_(-1, order_BV, sorted_BV)


def _column(params: Sequence[SamplingParams], name: str, like: Tensor) -> Tensor:
    """The rows' values of a parameter, `[B, 1]`."""
    values = [float(getattr(row, name)) for row in params]
    return torch.tensor(values, device=like.device)[:, None]
