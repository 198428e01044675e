"""From a step's logits to tokens: each row by the parameters of its own request.

    masks ─┐
    logits ┴ bias ─ penalties ─ temperature ─ top-k, top-p, min-p ─ draw ─ token
           └ log-softmax ─ log-probabilities

A row is one position of a sequence: that after its newest token, or after one of its drafts. What
is drawn there depends on the request's seed and on the number of the token, and on nothing else:
not on the rows beside it, nor on whether it was drafted. So a draft is right exactly if it is what
is drawn in its place, and speculation never changes a text (`accepted`).

Shapes: R rows, A of them that ask for log-probabilities, V vocabulary, W words of 32 tokens.
"""

from collections.abc import Mapping, Set
from collections.abc import Sequence as Seq
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharos.core import SamplingParams
from pharos.ops.sampling import bias_of, biased, needs_seen, penalized_at, sample, uniform
from pharos.serve.engine.plan import Plan
from pharos.serve.engine.request import Candidate, Sequence, Token

ROWS_AT_A_TIME = 8
"""On a processor: what is made of their scores stays in its caches, and in memory that was used
before. (For large tensors the system is asked for it anew, which takes longer than the work.)"""


class Row(NamedTuple):
    """The position after a sequence's tokens and the first `num_drafts` of its drafts."""

    sequence: Sequence
    num_drafts: int

    @property
    def params(self) -> SamplingParams:
        return self.sequence.request.params

    @property
    def step(self) -> int:
        """The number of the token that is drawn here, among those generated."""
        return self.sequence.num_generated + self.num_drafts


def rows_of(plan: Plan) -> list[Row]:
    """The rows of the plan's logits."""
    return [Row(part.sequence, i) for part in plan.parts for i in range(part.num_logits)]


class Sampler:
    """Keeps, for requests with penalties, which tokens were seen; `forget` those that ended."""

    def __init__(self) -> None:
        self._seen: dict[Sequence, _Seen] = {}

    @torch.inference_mode()
    def sample(
        self, logits_RV: Tensor, rows: Seq[Row], mask_RW: NDArray[np.int32] | None = None
    ) -> list[Token]:
        """The token of each row. Of a mask, bit `t % 32` of word `t // 32` is set where token `t`
        is legal. Logits in float32 may be written to where there is one."""
        step = ROWS_AT_A_TIME if logits_RV.device.type == "cpu" else max(1, len(rows))
        tokens: list[Token] = []
        for start, end in pairwise([*range(0, len(rows), step), len(rows)]):
            mask = None if mask_RW is None else mask_RW[start:end]
            tokens += self._sample(logits_RV[start:end], rows[start:end], mask)
        return tokens

    def _sample(
        self, logits_RV: Tensor, rows: Seq[Row], mask_RW: NDArray[np.int32] | None
    ) -> list[Token]:
        params = [row.params for row in rows]
        asking = [i for i, each in enumerate(params) if each.logprobs is not None]
        logprobs_AV = logits_RV[asking].float().log_softmax(dim=-1) if asking else None
        scores_RV = logits_RV
        if any(biases := [_bias(row, logits_RV.shape[1]) for row in rows]):
            scores_RV = biased(scores_RV.float(), biases)
        if needs_seen(params):
            counts = [self._counts(row) for row in rows]
            scores_RV = penalized_at(scores_RV.float(), params, counts)
        uniforms = [
            uniform(row.sequence.request.seed, row.step) if row.params.temperature else 0.0
            for row in rows
        ]
        ids = sample(scores_RV, params, uniforms, mask_BW=mask_RW).tolist()
        return _told(ids, asking, logprobs_AV, params)

    def forget(self, sequence: Sequence) -> None:
        self._seen.pop(sequence, None)

    @property
    def known(self) -> Set[Sequence]:
        """The sequences of which something is kept."""
        return self._seen.keys()

    def _counts(self, row: Row) -> Mapping[int, int]:
        """How often each token that was seen before the row was generated (0: in the prompt)."""
        if not needs_seen([row.params]):
            return {}
        seen = self._seen.setdefault(row.sequence, _Seen())
        return seen.counts(row)


class _Seen:
    """The tokens of a sequence, counted as they come."""

    def __init__(self) -> None:
        self._num_counted = 0
        self._counts: dict[int, int] = {}

    def counts(self, row: Row) -> Mapping[int, int]:
        sequence = row.sequence
        if self._num_counted == 0:
            self._counts = dict.fromkeys(sequence.request.prompt, 0)
            self._num_counted = sequence.num_prompt
        _count(self._counts, sequence.tokens[self._num_counted :])
        self._num_counted = len(sequence.tokens)
        if row.num_drafts == 0:
            return self._counts
        with_drafts = self._counts.copy()
        _count(with_drafts, sequence.drafts[: row.num_drafts])
        return with_drafts


def _count(counts: dict[int, int], tokens: Seq[int]) -> None:
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1


def _bias(row: Row, vocab_size: int) -> Mapping[int, float]:
    """A row's bias; of a tokenizer's end tokens, the model may lack some."""
    params = row.params
    if row.step >= params.min_tokens:
        return params.logit_bias
    end_ids = params.end_ids(row.sequence.request.eos_ids)
    return bias_of(params, row.step, [id_ for id_ in end_ids if id_ < vocab_size])


def accepted(sequence: Sequence, drawn: Seq[Token]) -> list[Token]:
    """Of the tokens drawn after a sequence and after each of its drafts, those that it goes on
    with: up to the first that its draft did not foresee."""
    tokens = list(drawn[:1])
    for draft, token in zip(sequence.drafts, drawn[1:], strict=False):
        if tokens[-1].id != draft:
            break
        tokens.append(token)
    return tokens


def _told(
    ids: list[int], asking: list[int], logprobs_AV: Tensor | None, params: Seq[SamplingParams]
) -> list[Token]:
    """Tokens with the log-probabilities that the `asking` rows want of them: the model's own."""
    tokens = [Token(id=id_) for id_ in ids]
    if logprobs_AV is None:
        return tokens
    most = max(params[i].logprobs or 0 for i in asking)
    own_A1 = torch.tensor([[ids[i]] for i in asking], device=logprobs_AV.device)
    own = logprobs_AV.gather(1, own_A1)[:, 0].tolist()
    best = logprobs_AV.topk(min(most, logprobs_AV.shape[1]), dim=-1)
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    for i, logprob, (best_ids, best_logprobs) in zip(asking, own, likeliest, strict=True):
        pairs = list(zip(best_ids, best_logprobs, strict=True))[: params[i].logprobs]
        candidates = tuple(Candidate(id=id_, logprob=value) for id_, value in pairs)
        tokens[i] = Token(id=ids[i], logprob=logprob, candidates=candidates)
    return tokens
