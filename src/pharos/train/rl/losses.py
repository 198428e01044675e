"""The losses of policies and values, element by element (PPO; Schulman et al. 2017,
arXiv:1707.06347). Pure functions on tensors of any shape.
"""

from torch import Tensor
from torch import maximum as larger_of


def clipped_policy_loss(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """`max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))`: once the policy has moved that far in
    the advantage's favour, there is no more to gain. A `clip_high` above `clip_low` leaves unlikely
    tokens more room to grow (DAPO; Yu et al. 2025, arXiv:2503.14476)."""
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return larger_of(-advantages * ratio, -advantages * clipped)


def is_clipped(ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """Where the loss above has no gradient."""
    too_high = (ratio > 1 + clip_high) & (advantages > 0)
    return too_high | ((ratio < 1 - clip_low) & (advantages < 0))


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None
) -> Tensor:
    """Half the squared error; with `clip` the larger one of that and of the same with values held
    within `clip` of the old ones."""
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = larger_of(error, (near - returns).square())
    return error / 2
