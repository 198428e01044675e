"""Reinforcement learning with a learned baseline (PPO; Schulman et al. 2017, arXiv:1707.06347; on
language models Ziegler et al. 2019, arXiv:1909.08593).

Each token is an action. What a completion scores is paid at its last token, and each token pays for
its distance from the reference:

    r_t = [t is the last] · (score - penalty where EOS is missing) - coefficient · KL_t

From rewards and the values of the value head come advantages (GAE), whitened over the rollout; the
policy learns them with clipped ratios, and the value head learns advantage + old value.

KL_t is estimated from the token that was sampled: `k1` by default, which is unbiased; single tokens
may have a negative one, the mean over a rollout may not for long (if it does, what is sampled is
not what is trained: `sampler_gap` tells). While policy and reference are the same it is 0.

Shapes: B completions, T places of the longest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.models.heads import CausalLM
from pharos.train.completions import is_said
from pharos.train.objective import Batch
from pharos.train.reference import Reference
from pharos.train.rl.actor_critic import ActorCritic
from pharos.train.rl.advantages import KLEstimator, generalized_advantages, kl_estimates, whitened
from pharos.train.rl.kl_control import KLConfig, KLController
from pharos.train.rl.losses import clipped_policy_loss, clipped_value_loss
from pharos.train.rl.on_policy import (
    PER_COMPLETION,
    PER_TOKEN,
    Columns,
    OnPolicyConfig,
    counts_told,
    stacked,
    told,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOConfig(OnPolicyConfig):
    """`gamma` and `decay` (λ) are GAE's. `value_clip` holds values near the old ones (null: not).
    `missing_eos_penalty` is taken off the score of a completion that was cut."""

    epochs: int = 4
    kl: KLConfig = field(default_factory=KLConfig)
    kl_estimator: KLEstimator = "k1"
    gamma: float = 1.0
    decay: float = 0.95
    whiten: bool = True
    value_weight: float = 0.1
    value_clip: float | None = 0.2
    missing_eos_penalty: float = 1.0

    def __post_init__(self) -> None:
        super(PPOConfig, self).__post_init__()
        for name in ("gamma", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("value_weight", "missing_eos_penalty"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


class PPO:
    """Of an `ActorCritic`."""

    task: ClassVar[Task] = "causal_lm"
    """What the model is made for."""

    def __init__(self, config: PPOConfig, reference: Reference) -> None:
        self.settings, self.reference = config, reference
        self.kl = KLController(config.kl)

    @property
    def weights(self) -> Mapping[str, float]:
        logged = (*PER_TOKEN, *PER_COMPLETION, "kl", "kl_coefficient")
        return {"policy": 1.0, "value": self.settings.value_weight, **dict.fromkeys(logged, 0.0)}

    def policy_of(self, model: nn.Module) -> CausalLM:
        assert isinstance(model, ActorCritic)
        return model.policy

    # -- a rollout

    def measure(self, model: nn.Module, batch: Batch) -> Columns:
        assert isinstance(model, ActorCritic)
        log_probs_BT, values_BT = model.read(batch)
        return {
            "old_log_probs": log_probs_BT,
            "old_values": values_BT,
            "reference_log_probs": self.reference.log_probs(model.policy, batch),
        }

    def finish(self, columns: Mapping[str, Tensor]) -> Columns:
        """And the coefficient learns from the rollout, for the next one."""
        config, is_said_BT = self.settings, is_said(columns)
        estimates_BT = kl_estimates(
            columns["old_log_probs"], columns["reference_log_probs"], config.kl_estimator
        )
        kl_BT = torch.where(is_said_BT, estimates_BT, 0.0)
        scores_B = columns["score"] - config.missing_eos_penalty * columns["truncated"].float()
        rewards_BT = paid_at_the_end(scores_B, is_said_BT) - self.kl.coefficient * kl_BT
        values_BT = torch.where(is_said_BT, columns["old_values"], 0.0)
        advantages_BT = generalized_advantages(
            rewards_BT, values_BT, is_said_BT, gamma=config.gamma, decay=config.decay
        )
        kl_B = kl_BT.sum(dim=1)
        finished = {
            **{name: x for name, x in columns.items() if name != "reference_log_probs"},
            "returns": advantages_BT + values_BT,
            "advantages": whitened(advantages_BT, is_said_BT) if config.whiten else advantages_BT,
            "kl": kl_B,
            "kl_coefficient": torch.full_like(kl_B, self.kl.coefficient),
        }
        self.kl.update(float(kl_B.mean()), len(kl_B))
        return finished

    def state_dict(self) -> dict[str, Any]:
        return self.kl.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kl.load_state_dict(state)

    # -- a batch

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        return stacked(examples)

    def count(self, batch: Batch) -> Mapping[str, int]:
        counts = counts_told(batch)
        tokens, completions = counts[PER_TOKEN[0]], counts[PER_COMPLETION[0]]
        of_rollout = {"kl": completions, "kl_coefficient": completions}
        return {"policy": tokens, "value": tokens, **counts, **of_rollout}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """`kl` is of whole completions, against the reference, when they were sampled."""
        # Dropout stays off: old and new log-probabilities must be of one model.
        model.eval()
        assert isinstance(model, ActorCritic)
        config, is_said_BT = self.settings, is_said(batch)
        log_probs_BT, values_BT = model.read(batch)
        ratio_BT = (log_probs_BT - batch["old_log_probs"]).exp()
        advantages_BT = batch["advantages"]
        clips = {"clip_low": config.clip_low, "clip_high": config.clip_high}
        policy_BT = clipped_policy_loss(ratio_BT, advantages_BT, **clips)
        value_BT = clipped_value_loss(
            values_BT, batch["old_values"], batch["returns"], clip=config.value_clip
        )
        return {
            "policy": policy_BT[is_said_BT].sum(),
            "value": value_BT[is_said_BT].sum(),
            **told(batch, log_probs_BT, ratio_BT, advantages_BT, **clips),
            "kl": batch["kl"].sum(),
            "kl_coefficient": batch["kl_coefficient"].sum(),
        }


def paid_at_the_end(scores_B: Tensor, is_said_BT: Tensor) -> Tensor:
    """`[B, T]`: each completion's score at its last token."""
    places_T = torch.arange(is_said_BT.shape[1])
    last_B = (places_T * is_said_BT).amax(dim=1)
    return torch.where(places_T == last_B[:, None], scores_B[:, None], 0.0)
