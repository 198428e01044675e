"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), as a function on tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def adamw_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    group: Mapping[str, Any],
) -> None:
    """One step, in place, of tensors of one shape in float32. `step` counts from 1.

    m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
    θ ← θ − lr (λ θ + m̂ / (√v̂ + ε))    with m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    """
    lr, (beta1, beta2) = group["lr"], group["betas"]
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(group["eps"])
    parameter.mul_(1 - lr * group["weight_decay"])
    parameter.addcdiv_(exp_avg, root, value=-lr / (1 - beta1**step))
