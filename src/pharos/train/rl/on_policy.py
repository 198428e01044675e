"""What PPO and GRPO share: a policy that learns from what it has just said itself.

A rollout becomes columns, a line for each completion, in three steps: what the policy said
(`roll_out`), what policy and reference think of it before anything is learned (`measure`, on the
model), and what it was worth (`finish`, on the host). Then its lines are dealt to batches as rows
are elsewhere.

The log-probabilities that ratios are taken to are computed anew by `measure`, in the same way as in
training, and not taken from the sampler: so the first ratio is 1, in any precision. How far the
sampler's are from them is logged (`sampler_gap`), and checked in the first step.

Shapes: B completions, T places of the longest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from pharos.data.rows import Row
from pharos.models.heads import CausalLM
from pharos.train.completions import is_said
from pharos.train.objective import Batch, Objective
from pharos.train.rl.losses import is_clipped
from pharos.train.rl.rewards import RewardSection

PER_TOKEN = ("entropy", "ratio", "clipped", "sampler_gap")
PER_COMPLETION = ("score", "length", "truncated")
Columns = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class OnPolicyConfig:
    """`rollout_size` completions, each of up to `max_new_tokens`, are sampled at once (default:
    those of one optimizer step), `group_size` for each prompt; then trained on `epochs` times.
    `reward` says what they are worth. `reference` is a model's folder; without one, the model's
    adapter is switched off instead."""

    reward: RewardSection | None = None
    max_new_tokens: int = 128
    group_size: int = 1
    rollout_size: int | None = None
    epochs: int = 1
    reference: str | None = None
    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "group_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("clip_low", "clip_high"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be positive, 0.2 mostly"
                )


@runtime_checkable
class OnPolicy(Objective, Protocol):
    """An objective whose rows are lines of a rollout."""

    @property
    def settings(self) -> OnPolicyConfig: ...

    def policy_of(self, model: nn.Module) -> CausalLM:
        """Of the module that is trained, what speaks."""

    def measure(self, model: nn.Module, batch: Batch) -> Columns:
        """What is known of completions before they are learned from: `[B]` or `[B, T]` each."""

    def finish(self, columns: Mapping[str, Tensor]) -> Columns:
        """The columns that `losses` needs, of a whole rollout: `score` and `truncated` are among
        those that are given."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def stacked(lines: Sequence[Row]) -> Batch:
    """Lines of one rollout, cut where none of them says anything any more."""
    columns = {name: np.stack([line[name] for line in lines]) for name in lines[0]}
    batch = {name: torch.from_numpy(column) for name, column in columns.items()}
    length = int(is_said(batch).any(dim=0).nonzero()[-1]) + 1
    return {name: x[:, :length] if x.ndim == 2 else x for name, x in batch.items()}


def counts_told(batch: Batch) -> dict[str, int]:
    tokens, completions = int(is_said(batch).sum()), len(batch["ids"])
    return dict.fromkeys(PER_TOKEN, tokens) | dict.fromkeys(PER_COMPLETION, completions)


def told(
    batch: Batch, log_probs_BT: Tensor, ratio_BT: Tensor, advantages_BT: Tensor, **clips: float
) -> dict[str, Tensor]:
    """Sums to be logged. `entropy` is estimated by what was sampled; it hangs on the model, with
    the weight 0, so that there is something to go back from where no completion is learned from."""
    is_said_BT = is_said(batch)
    gap_BT = (batch["sampled_log_probs"] - batch["old_log_probs"]).abs()
    clipped_BT = is_clipped(ratio_BT, advantages_BT, **clips) & is_said_BT
    return {
        "entropy": -log_probs_BT.sum(),
        "ratio": ratio_BT.detach()[is_said_BT].sum(),
        "clipped": clipped_BT.float().sum(),
        "sampler_gap": gap_BT[is_said_BT].sum(),
        "score": batch["score"].sum(),
        "length": is_said_BT.float().sum(),
        "truncated": batch["truncated"].float().sum(),
    }
