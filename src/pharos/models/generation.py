"""Generation with a decoder, token by token: one batch, contiguous cache.

    generation = Generation(model, [ids], SamplingParams(max_tokens=20), eos_ids=(2,))
    for token in generation: ...

Prompts of unequal length are padded on the left and the padding is masked, so that a sequence gets
the same tokens in any batch. A sequence that has ended leaves the batch. (The serving engine mixes
requests as they come and go; this is for one batch that begins together.)

Shapes: B sequences in the batch, T new tokens, S tokens in all, V vocabulary.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pharos.core import SamplingParams
from pharos.models.heads import CausalLM
from pharos.models.kv_cache import KVCache
from pharos.ops.masks import Causal, Mask, Valid
from pharos.ops.sampling import Seen, bias_of, biased, needs_seen, sample, uniform

PREFILL_CHUNK = 1024
FinishReason = Literal["stop", "length"]


class Candidate(NamedTuple):
    id: int
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """A token of sequence number `sequence`. `logprob` and the likeliest `candidates` are those of
    the model's own distribution, before temperature and truncation; None and () unless asked for.
    `finish_reason` is set on the last token of a sequence."""

    sequence: int
    id: int
    logprob: float | None = None
    candidates: tuple[Candidate, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class _Row:
    """A sequence that is still in the batch."""

    sequence: int
    params: SamplingParams
    seed: int
    end_ids: frozenset[int]
    num_generated: int = 0


class Generation:
    """Iterate for the tokens of all sequences, a step at a time; `stop` ends one early.

    `params` are one for all or one each; their `stop` strings are for whoever makes text of the
    tokens. Raises ValueError for an empty prompt, for an id that is not in the vocabulary, and for
    more tokens than the model has positions.
    """

    def __init__(
        self,
        model: CausalLM,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        eos_ids: Sequence[int] = (),
    ) -> None:
        each = _one_each(params, len(prompts))
        for prompt, row in zip(prompts, each, strict=True):
            check_prompt(model, prompt, row.max_tokens)
            check_token_params(row, model.config.vocab_size)
        self._model = model
        own_ids = [id_ for id_ in eos_ids if id_ < model.config.vocab_size]
        self._rows = [_Row(i, p, _seed(p), p.end_ids(own_ids)) for i, p in enumerate(each)]
        self._device = model.body.embedding.weight.device
        self._cache = KVCache(num_layers=model.config.num_hidden_layers)
        self._ids_BT, self._starts_B = _left_padded(prompts, self._device)
        self._seen = _seen(prompts, model.config.vocab_size, self._device, each)
        self._stopped: set[int] = set()

    def __iter__(self) -> Iterator[Generated]:
        while self._rows:
            yield from self.step()

    def stop(self, sequence: int) -> None:
        """End a sequence before its time: it gets no more tokens."""
        self._stopped.add(sequence)

    @torch.inference_mode()
    def step(self) -> list[Generated]:
        """The next token of every sequence still running."""
        self._drop([row.sequence in self._stopped for row in self._rows])
        if not self._rows:
            return []
        logits_BV = self._forward()
        params = [row.params for row in self._rows]
        uniforms = [uniform(row.seed, row.num_generated) for row in self._rows]
        biases = [bias_of(row.params, row.num_generated, row.end_ids) for row in self._rows]
        ids_B = sample(biased(logits_BV, biases), params, uniforms, self._seen)
        if self._seen is not None:
            ones_B1 = torch.ones_like(ids_B[:, None], dtype=self._seen.output_BV.dtype)
            self._seen.output_BV.scatter_add_(1, ids_B[:, None], ones_B1)
        generated = self._noted(ids_B.tolist(), logits_BV)
        self._ids_BT = ids_B[:, None]
        self._drop([token.finish_reason is not None for token in generated])
        return generated

    def _forward(self) -> Tensor:
        """Logits after the newest tokens, `[B, V]`. A long prompt is read in chunks."""
        x_BTD = None
        for ids_BT in torch.split(self._ids_BT, PREFILL_CHUNK, dim=1):
            x_BTD = self._model.body(
                ids_BT,
                positions_BT=self._positions(ids_BT.shape[1]),
                mask=self._mask(self._cache.length + ids_BT.shape[1]),
                cache=self._cache,
            )
        assert x_BTD is not None
        return self._model.logits(x_BTD[:, -1]).float()

    def _positions(self, num_tokens: int) -> Tensor | None:
        """None where they are those of the cache: no sequence is padded."""
        if self._starts_B is None:
            return None
        slots_T = torch.arange(num_tokens, device=self._device) + self._cache.length
        return (slots_T - self._starts_B[:, None]).clamp(min=0)

    def _mask(self, length: int) -> Mask:
        if self._starts_B is None:
            return Causal()
        slots_S = torch.arange(length, device=self._device)
        return Causal() & Valid(slots_S >= self._starts_B[:, None])

    def _noted(self, ids: list[int], logits_BV: Tensor) -> list[Generated]:
        wanted = [row.params.logprobs for row in self._rows]
        logprobs_BV = None if all(n is None for n in wanted) else logits_BV.log_softmax(dim=-1)
        generated = []
        for i, (row, id_) in enumerate(zip(self._rows, ids, strict=True)):
            row.num_generated += 1
            reason: FinishReason | None = None
            if id_ in row.end_ids:
                reason = "stop"
            elif row.num_generated >= row.params.max_tokens:
                reason = "length"
            logprob: float | None = None
            candidates: tuple[Candidate, ...] = ()
            if logprobs_BV is not None and row.params.logprobs is not None:
                logprob = float(logprobs_BV[i, id_])
                candidates = _candidates(logprobs_BV[i], row.params.logprobs)
            generated.append(
                Generated(
                    sequence=row.sequence,
                    id=id_,
                    logprob=logprob,
                    candidates=candidates,
                    finish_reason=reason,
                )
            )
        return generated

    def _drop(self, is_over: Sequence[bool]) -> None:
        """Take sequences out of the batch."""
        if not any(is_over):
            return
        kept = [i for i, over in enumerate(is_over) if not over]
        self._rows = [self._rows[i] for i in kept]
        kept_B = torch.tensor(kept, dtype=torch.long, device=self._device)
        self._ids_BT = self._ids_BT[kept_B]
        self._cache.select(kept_B)
        if self._starts_B is not None:
            self._starts_B = self._starts_B[kept_B]
        if self._seen is not None:
            self._seen = Seen(*(counts_BV[kept_B] for counts_BV in self._seen))


def _one_each(
    params: SamplingParams | Sequence[SamplingParams], count: int
) -> list[SamplingParams]:
    each = [params] * count if isinstance(params, SamplingParams) else list(params)
    if len(each) != count:
        raise ValueError(
            f"{count} prompts and {len(each)} sets of parameters; give one for all, or one for each"
        )
    return each


def check_prompt(model: CausalLM, prompt: Sequence[int], max_tokens: int) -> None:
    """Raises ValueError for what the model cannot read, or not go on from for `max_tokens`."""
    vocab_size, most = model.config.vocab_size, model.body.max_positions
    if not prompt:
        raise ValueError("a prompt has no tokens; begin with the model's bos token")
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise ValueError(
            f"a prompt has ids from {min(prompt)} to {max(prompt)}; the vocabulary goes from 0 "
            f"to {vocab_size - 1}: is this the model's tokenizer?"
        )
    if most is not None and len(prompt) + max_tokens > most:
        raise ValueError(
            f"a prompt of {len(prompt)} tokens and max_tokens {max_tokens} exceed the "
            f"{most} positions that the model has; shorten one of them"
        )


def check_token_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises ValueError for tokens that `params` name and the vocabulary does not have."""
    for name in ("stop_token_ids", "logit_bias"):
        ids = getattr(params, name)
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            wrong = next(id_ for id_ in ids if not 0 <= id_ < vocab_size)
            raise ValueError(
                f"{name} names token {wrong}; the vocabulary goes from 0 to {vocab_size - 1}"
            )


def _left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The ids `[B, T]`, and where each prompt starts, or None if all start at 0."""
    longest = max(map(len, prompts), default=0)
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    starts = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor(rows, dtype=torch.long, device=device).view(len(prompts), longest)
    return ids_BT, torch.tensor(starts, device=device) if any(starts) else None


def _seen(
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
    device: torch.device,
    params: Sequence[SamplingParams],
) -> Seen | None:
    if not needs_seen(params):
        return None
    counts = [torch.bincount(torch.tensor(prompt), minlength=vocab_size) for prompt in prompts]
    prompt_BV = torch.stack(counts).to(device)
    return Seen(prompt_BV, torch.zeros_like(prompt_BV))


def _candidates(logprobs_V: Tensor, count: int) -> tuple[Candidate, ...]:
    best = logprobs_V.topk(min(count, len(logprobs_V)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(Candidate(id_, logprob) for id_, logprob in pairs)


def _seed(params: SamplingParams) -> int:
    return secrets.randbits(63) if params.seed is None else params.seed
