"""Reinforcement learning without a learned baseline (GRPO; Shao et al. 2024, arXiv:2402.03300).

Several completions of one prompt are compared with each other: a completion's advantage, which all
of its tokens share, is its score less the mean of its group, over the group's deviation if wanted.
(That makes very easy and very hard prompts count as much as others; Dr. GRPO leaves it out: Liu et
al. 2025, arXiv:2503.20783.) A group whose scores are all the same teaches nothing: the share of
completions in such groups is logged, `equal_groups`. At the first step the loss is about 0, for
advantages add up to nothing; the gradient is not.

`normalization` is what sums over tokens are divided by:

    token     all tokens of the step, so that each counts alike (DAPO; Yu et al. 2025,
              arXiv:2503.14476)
    sequence  the tokens of each completion, then the completions: in the paper, but tokens of long
              ones count less, so long wrong answers cost little
    constant  `max_new_tokens`, then the completions (Dr. GRPO)

Completions that were cut are not learned from (`mask_truncated`): they may have been right. The KL
from a reference, `beta` times `k3`, is a term of the loss; by default there is none.

Shapes: B completions, T places of the longest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.models.heads import CausalLM
from pharos.train.completions import is_said, log_probs_of
from pharos.train.objective import Batch
from pharos.train.reference import Reference
from pharos.train.rl.advantages import group_advantages, is_in_equal_group, kl_estimates
from pharos.train.rl.losses import clipped_policy_loss
from pharos.train.rl.on_policy import (
    PER_COMPLETION,
    PER_TOKEN,
    Columns,
    OnPolicyConfig,
    counts_told,
    stacked,
    told,
)

Normalization = Literal["token", "sequence", "constant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOConfig(OnPolicyConfig):
    """`clip_high` above `clip_low` leaves unlikely tokens more room to grow. `beta` weighs the KL
    from the reference, which is needed only then."""

    group_size: int = 8
    clip_high: float = 0.28
    beta: float = 0.0
    divide_by_std: bool = True
    normalization: Normalization = "token"
    mask_truncated: bool = True

    def __post_init__(self) -> None:
        super(GRPOConfig, self).__post_init__()
        if self.group_size < 2:
            raise ValueError(
                f"group_size is {self.group_size}; completions of a prompt are compared with each "
                "other, so there must be at least 2"
            )
        if self.beta < 0:
            raise ValueError(f"beta is {self.beta}; it must be 0 or more")
        if self.reference is not None and not self.beta:
            raise ValueError("reference is given and beta is 0: give beta a value, or leave it out")


class GRPO:
    """Of a decoder."""

    task: ClassVar[Task] = "causal_lm"
    """What the model is made for."""

    def __init__(self, config: GRPOConfig, reference: Reference) -> None:
        self.settings, self.reference = config, reference

    @property
    def weights(self) -> Mapping[str, float]:
        logged = (*PER_TOKEN, *PER_COMPLETION, "equal_groups")
        kl = {"kl": self.settings.beta} if self.settings.beta else {}
        return {"policy": 1.0, **kl, **dict.fromkeys(logged, 0.0)}

    def policy_of(self, model: nn.Module) -> CausalLM:
        if not isinstance(model, CausalLM):
            raise TrainingError(
                f"GRPO needs a head for causal_lm, and the model is a {type(model).__name__}; "
                "build it with the task causal_lm"
            )
        return model

    # -- a rollout

    def measure(self, model: nn.Module, batch: Batch) -> Columns:
        policy = self.policy_of(model)
        measured = {"old_log_probs": log_probs_of(policy, batch)}
        if self.settings.beta:
            measured["reference_log_probs"] = self.reference.log_probs(policy, batch)
        return measured

    def finish(self, columns: Mapping[str, Tensor]) -> Columns:
        scores_B, size = columns["score"], self.settings.group_size
        return {
            **columns,
            "advantages": group_advantages(
                scores_B, size, divide_by_std=self.settings.divide_by_std
            ),
            "equal_groups": is_in_equal_group(scores_B, size).float(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Nothing is carried from one rollout to the next."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert not state

    # -- a batch

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        return stacked(examples)

    def count(self, batch: Batch) -> Mapping[str, int]:
        counts = counts_told(batch)
        learned_BT = self._is_learned(batch)
        of_tokens = self.settings.normalization == "token"
        count = int((learned_BT if of_tokens else learned_BT.any(dim=1)).sum())
        kl = {"kl": count} if self.settings.beta else {}
        return {"policy": count, **kl, **counts, "equal_groups": counts[PER_COMPLETION[0]]}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        # Dropout stays off: old and new log-probabilities must be of one model.
        policy = self.policy_of(model.eval())
        config = self.settings
        log_probs_BT = log_probs_of(policy, batch)
        ratio_BT = (log_probs_BT - batch["old_log_probs"]).exp()
        advantages_BT = batch["advantages"][:, None].expand_as(ratio_BT)
        clips = {"clip_low": config.clip_low, "clip_high": config.clip_high}
        policy_BT = clipped_policy_loss(ratio_BT, advantages_BT, **clips)
        is_learned_BT = self._is_learned(batch)
        terms = {"policy": self._normalized(policy_BT, is_learned_BT)}
        if config.beta:
            kl_BT = kl_estimates(log_probs_BT, batch["reference_log_probs"], "k3")
            terms["kl"] = self._normalized(kl_BT, is_learned_BT)
        return {
            **terms,
            **told(batch, log_probs_BT, ratio_BT, advantages_BT, **clips),
            "equal_groups": batch["equal_groups"].sum(),
        }

    def _is_learned(self, batch: Batch) -> Tensor:
        if not self.settings.mask_truncated:
            return is_said(batch)
        return is_said(batch) & ~batch["truncated"][:, None]

    def _normalized(self, losses_BT: Tensor, is_learned_BT: Tensor) -> Tensor:
        """The sum that is divided by `count`."""
        kept_BT = torch.where(is_learned_BT, losses_BT, 0.0)
        if self.settings.normalization == "sequence":
            kept_BT = kept_BT / is_learned_BT.sum(dim=1, keepdim=True).clamp(min=1)
        if self.settings.normalization == "constant":
            kept_BT = kept_BT / self.settings.max_new_tokens
        return kept_BT.sum()
