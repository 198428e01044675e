"""What the policy says to prompts, by our own generation.

Completions are sampled from the model's own distribution: at the temperature 1, from all tokens,
of any length up to the most. Anything else (a lower temperature, the likeliest tokens only) would
draw from another distribution than the one whose log-probabilities are trained, and the KL from
the reference would come out negative.

Shapes: B completions, T places of the longest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pharos.adapt import virtual_ids
from pharos.core.errors import TrainingError
from pharos.core.nouns import SamplingParams
from pharos.data.rows import Row
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.train.completions import completion_batch
from pharos.train.rl.rewards import Completion


@dataclass(frozen=True, slots=True)
class Rollout:
    """`batch` has `ids` and `labels`, and `sampled_log_probs` as they were when sampled."""

    completions: Sequence[Completion]
    batch: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def is_truncated(self) -> Tensor:
        return torch.tensor([completion.is_truncated for completion in self.completions])


def roll_out(
    model: CausalLM,
    prompts: Sequence[Row],
    *,
    max_tokens: int,
    seeds: Sequence[int],
    eos_ids: Sequence[int],
    pad_id: int,
) -> Rollout:
    """One completion for each prompt, which depends on its own seed and on no other prompt. The
    model must be in evaluation mode. Raises TrainingError for prompts that it has no room for."""
    asked = [prompt["prompt_ids"].tolist() for prompt in prompts]
    before = virtual_ids(model)
    each = [
        SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=s, logprobs=0) for s in seeds
    ]
    said: list[list[int]] = [[] for _ in prompts]
    log_probs: list[list[float]] = [[] for _ in prompts]
    is_truncated = [False] * len(prompts)
    try:
        generation = Generation(model, [[*before, *ids] for ids in asked], each, eos_ids=eos_ids)
    except ValueError as error:
        raise TrainingError(
            f"{error}; make objective.max_new_tokens or the prompts (data.max_tokens) shorter"
        ) from error
    for token in generation:
        assert token.logprob is not None
        said[token.sequence].append(token.id)
        log_probs[token.sequence].append(token.logprob)
        is_truncated[token.sequence] = token.finish_reason == "length"
    completions = [
        Completion(prompt, tuple(ids), over)
        for prompt, ids, over in zip(prompts, said, is_truncated, strict=True)
    ]
    batch = completion_batch(asked, said, pad_id=pad_id)
    batch["sampled_log_probs"] = _placed(log_probs, asked, batch["labels"].shape)
    return Rollout(completions, batch)


def _placed(
    values: Sequence[Sequence[float]], prompts: Sequence[Sequence[int]], shape: torch.Size
) -> Tensor:
    """`[B, T]`: each at the place that its token is said from."""
    placed_BT = torch.zeros(shape)
    for line_T, row, prompt in zip(placed_BT, values, prompts, strict=True):
        line_T[len(prompt) - 1 : len(prompt) - 1 + len(row)] = torch.tensor(row)
    return placed_BT
