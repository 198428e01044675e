"""What an encoder-decoder writes for a source: its likeliest target, by beam search or greedily.

    params = read_decoding(folder)  # pharos.models.decoding
    for hypotheses in beam_search(model, ids_BS, params, valid_BS=valid_BS):
        best = hypotheses[0].ids

Beam search keeps the `num_beams` likeliest beginnings of a target. Each step extends every one by
every token and keeps the best again. What has ended is set aside, scored by its log-probability
over its length to the power of `length_penalty`. The search ends when no beginning can beat what
was set aside. Which candidates count, and when that is so, is as in Hugging Face's `generate`,
which finds the same targets.

The device scores; the host decides (`_Search`), a source for itself. All beams of a source share
its keys and values, the first step is computed once for all of them, and a source whose search has
ended leaves the batch.

Shapes: B sources, S source tokens, E beams of a source, R = B · E rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pharos.models.decoding import DecodingParams
from pharos.models.seq2seq import Seq2SeqLM


class Hypothesis(NamedTuple):
    """A target, its end token included if it has ended, and its log-probability over its length to
    the power of the length penalty."""

    ids: tuple[int, ...]
    score: float


class Candidate(NamedTuple):
    """A beam of a source, a token that may follow, and the log-probability of the whole."""

    log_prob: float
    beam: int
    token: int


@dataclass(slots=True)
class Beam:
    """The beginning of a target; `came_from` is the beam that it extends."""

    ids: tuple[int, ...]
    log_prob: float
    came_from: int = 0


@dataclass(slots=True)
class _Search:
    """The search for the targets of one source."""

    params: DecodingParams
    beams: list[Beam] = field(default_factory=lambda: [Beam((), 0.0)])
    finished: list[Hypothesis] = field(default_factory=list)
    is_done: bool = False

    def step(self, candidates: Sequence[Candidate]) -> None:
        """Go on with the best candidates, which are given best first."""
        params = self.params
        length = len(self.beams[0].ids) + 1
        beams: list[Beam] = []
        for rank, (log_prob, beam, token) in enumerate(candidates):
            if log_prob == float("-inf"):
                break
            ids = (*self.beams[beam].ids, token)
            if token in params.eos_ids or length == params.max_new_tokens:
                if rank < params.num_beams:
                    self._set_aside(ids, log_prob)
            elif len(beams) < params.num_beams:
                beams.append(Beam(ids, log_prob, beam))
        self.is_done = not beams or not self._can_improve(beams[0].log_prob, length)
        impossible = [Beam(beam.ids, float("-inf"), beam.came_from) for beam in beams[:1]]
        self.beams = beams + impossible * (params.num_beams - len(beams))

    def _set_aside(self, ids: tuple[int, ...], log_prob: float) -> None:
        self.finished.append(_hypothesis(ids, log_prob, self.params))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.params.num_beams :]

    def _can_improve(self, best_log_prob: float, length: int) -> bool:
        params = self.params
        if len(self.finished) < params.num_beams:
            return True
        if params.early_stopping is True:
            return False
        may_grow = params.early_stopping == "never" and params.length_penalty > 0
        reach = params.max_new_tokens if may_grow else length
        return bool(best_log_prob / reach**params.length_penalty > self.finished[-1].score)


class _Batch:
    """The sources that are still searched for, each with as many rows, and the decoder's cache."""

    def __init__(
        self, model: Seq2SeqLM, ids_BS: Tensor, valid_BS: Tensor | None, params: DecodingParams
    ) -> None:
        self._model, self._params = model, params
        self._valid_BS = valid_BS
        self._states_BSD = model.encode(ids_BS, valid_BS)
        self._cache = model.new_cache()
        self._ids_R1 = torch.full((len(ids_BS), 1), params.start_id, device=ids_BS.device)

    def log_probs(self) -> Tensor:
        """`[R, V]`: of every token to come next, after what must and must not."""
        logits_RTV = self._model.decode(self._ids_R1, self._states_BSD, self._valid_BS, self._cache)
        return self._restrict(logits_RTV[:, -1].float().log_softmax(dim=-1))

    def go_on(self, kept: Sequence[int], rows: Sequence[int], tokens: Sequence[int]) -> None:
        """With these sources, and in the rows of each with these tokens after these rows."""
        if not kept:
            return
        device = self._ids_R1.device
        if list(rows) != list(range(len(self._ids_R1))):
            self._cache.select(torch.tensor(rows, device=device))
        if len(kept) < len(self._states_BSD):
            kept_B = torch.tensor(kept, device=device)
            self._cache.select_sources(kept_B)
            self._states_BSD = self._states_BSD[kept_B]
            self._valid_BS = None if self._valid_BS is None else self._valid_BS[kept_B]
        self._ids_R1 = torch.tensor(tokens, device=device)[:, None]

    def _restrict(self, log_probs_RV: Tensor) -> Tensor:
        params, num_written = self._params, self._cache.length - 1
        if params.banned_ids:
            log_probs_RV[:, list(params.banned_ids)] = float("-inf")
        if num_written == 0 and params.forced_bos_id is not None:
            log_probs_RV = _only(log_probs_RV, [params.forced_bos_id])
        if num_written == params.max_new_tokens - 1 and params.forced_eos_ids:
            log_probs_RV = _only(log_probs_RV, list(params.forced_eos_ids))
        return log_probs_RV


def _only(log_probs_RV: Tensor, ids: list[int]) -> Tensor:
    certain_RV = torch.full_like(log_probs_RV, float("-inf"))
    certain_RV[:, ids] = 0.0
    return certain_RV


@torch.inference_mode()
def beam_search(
    model: Seq2SeqLM, ids_BS: Tensor, params: DecodingParams, *, valid_BS: Tensor | None = None
) -> list[list[Hypothesis]]:
    """For each source up to `num_beams` targets, best first. `valid_BS` marks what is a token."""
    searches = [_Search(params) for _ in ids_BS]
    batch, still_open = _Batch(model, ids_BS, valid_BS, params), list(searches)
    while still_open:
        log_probs_RV = batch.log_probs()
        rows_each = len(log_probs_RV) // len(still_open)
        of_sources = _best(log_probs_RV, still_open)
        for search, candidates in zip(still_open, of_sources, strict=True):
            search.step(candidates)
        kept = [i for i, search in enumerate(still_open) if not search.is_done]
        beams = [(i, beam) for i in kept for beam in still_open[i].beams]
        rows = [i * rows_each + beam.came_from for i, beam in beams]
        batch.go_on(kept, rows, [beam.ids[-1] for _, beam in beams])
        still_open = [still_open[i] for i in kept]
    return [search.finished for search in searches]


def _best(log_probs_RV: Tensor, searches: Sequence[_Search]) -> list[list[Candidate]]:
    """For each search the best candidates, best first: so many that enough go on even if every
    beam's best are its ends."""
    params, vocab = searches[0].params, log_probs_RV.shape[1]
    so_far = [[beam.log_prob for beam in search.beams] for search in searches]
    so_far_BE1 = torch.tensor(so_far, device=log_probs_RV.device)[..., None]
    total_BEV = log_probs_RV.view(len(searches), -1, vocab) + so_far_BE1
    most = max(2, 1 + len(params.eos_ids)) * params.num_beams
    top = total_BEV.flatten(1).topk(min(most, total_BEV[0].numel()))
    rows = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    return [
        [Candidate(log_prob, *divmod(place, vocab)) for log_prob, place in zip(*row, strict=True)]
        for row in rows
    ]


@torch.inference_mode()
def greedy_search(
    model: Seq2SeqLM, ids_BS: Tensor, params: DecodingParams, *, valid_BS: Tensor | None = None
) -> list[Hypothesis]:
    """For each source the target whose every token is the likeliest after those before it."""
    beams = [Beam((), 0.0) for _ in ids_BS]
    batch, still_open = _Batch(model, ids_BS, valid_BS, params), list(range(len(ids_BS)))
    for _ in range(params.max_new_tokens):
        best = batch.log_probs().max(dim=-1)
        for i, log_prob, token in zip(
            still_open, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            beams[i] = Beam((*beams[i].ids, token), beams[i].log_prob + log_prob)
        kept = [row for row, i in enumerate(still_open) if beams[i].ids[-1] not in params.eos_ids]
        still_open = [still_open[row] for row in kept]
        batch.go_on(kept, kept, [beams[i].ids[-1] for i in still_open])
        if not still_open:
            break
    return [_hypothesis(beam.ids, beam.log_prob, params) for beam in beams]


def _hypothesis(ids: tuple[int, ...], log_prob: float, params: DecodingParams) -> Hypothesis:
    return Hypothesis(ids, log_prob / len(ids) ** params.length_penalty)
