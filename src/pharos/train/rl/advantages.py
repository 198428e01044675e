"""How much better than expected a token, or a completion, was: pure functions on tensors.

Shapes: B completions, T places; `is_said_BT` marks the places of each completion, which lie one
after another.
"""

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k3"]
SMALLEST_STD = 1e-6


def kl_estimates(log_probs: Tensor, reference: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(policy ‖ reference) from tokens that the policy sampled, token by token (Schulman 2020,
    "Approximating KL divergence"). With r = π_ref / π: `k1` is -log r, unbiased, and of either
    sign; `k3` is r - 1 - log r, unbiased too, and never negative."""
    log_ratio = reference - log_probs
    return -log_ratio if estimator == "k1" else log_ratio.exp() - 1 - log_ratio


def generalized_advantages(
    rewards_BT: Tensor, values_BT: Tensor, is_said_BT: Tensor, *, gamma: float, decay: float
) -> Tensor:
    """GAE (Schulman et al. 2016, arXiv:1506.02438), `decay` being its λ: `A_t = δ_t + γλ A_{t+1}`
    with `δ_t = r_t + γ V_{t+1} - V_t`, and nothing after the last token. 0 where nothing is said.
    """
    advantages_BT = torch.zeros_like(values_BT)
    following_B = torch.zeros_like(values_BT[:, 0])
    next_value_B = torch.zeros_like(following_B)
    for t in reversed(range(values_BT.shape[1])):
        is_said_B = is_said_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantages_BT[:, t] = torch.where(is_said_B, delta_B + gamma * decay * following_B, 0.0)
        following_B = torch.where(is_said_B, advantages_BT[:, t], following_B)
        next_value_B = torch.where(is_said_B, values_BT[:, t], next_value_B)
    return advantages_BT


def whitened(x_BT: Tensor, is_said_BT: Tensor) -> Tensor:
    """With mean 0 and deviation 1 over what is said, 0 elsewhere."""
    said_N = x_BT[is_said_BT]
    std = said_N.std(correction=0).clamp(min=SMALLEST_STD)
    return torch.where(is_said_BT, (x_BT - said_N.mean()) / std, 0.0)


def group_advantages(scores_B: Tensor, group_size: int, *, divide_by_std: bool) -> Tensor:
    """Each completion's score less the mean of its group, which are the `group_size` completions of
    one prompt; over the group's deviation, if wanted (DeepSeekMath; Shao et al. 2024,
    arXiv:2402.03300). 0 in a group whose scores are all the same. `[B]`."""
    scores_PG = scores_B.view(-1, group_size)
    advantages_PG = scores_PG - scores_PG.mean(dim=1, keepdim=True)
    if divide_by_std:
        std_P1 = scores_PG.std(dim=1, keepdim=True)
        advantages_PG = advantages_PG / std_P1.clamp(min=SMALLEST_STD)
    return advantages_PG.masked_fill(_are_equal(scores_PG)[:, None], 0.0).flatten()


def is_in_equal_group(scores_B: Tensor, group_size: int) -> Tensor:
    """Whether nothing can be learned from a completion: all of its group scored the same. `[B]`."""
    return _are_equal(scores_B.view(-1, group_size)).repeat_interleave(group_size)


def _are_equal(scores_PG: Tensor) -> Tensor:
    return scores_PG.amax(dim=1) == scores_PG.amin(dim=1)
