"""How much of the distance to the reference is taken off the reward."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_ERROR = 0.2
"""Of which a single rollout is believed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KLConfig:
    """`coefficient` is what a nat costs. With a `target`, in nats a completion, it is raised while
    the policy is further from the reference than that, and lowered while it is nearer: by about a
    fifth after `horizon` completions. Else it is fixed."""

    coefficient: float = 0.05
    target: float | None = None
    horizon: int = 1000

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"coefficient is {self.coefficient}; it must be 0 or more")
        if self.target is not None and (self.target <= 0 or not self.coefficient):
            raise ValueError(
                f"target is {self.target} and coefficient {self.coefficient}; to be adapted, both "
                "must be positive (or leave target out for a fixed coefficient)"
            )
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}; it must be 1 or more completions")


class KLController:
    """The coefficient as it stands (Ziegler et al. 2019, arXiv:1909.08593, section 2.2)."""

    def __init__(self, config: KLConfig) -> None:
        self.config, self.coefficient = config, config.coefficient

    def update(self, kl: float, num_completions: int) -> None:
        """After a rollout of so many completions, whose mean KL was `kl`."""
        if self.config.target is None:
            return
        error = min(max(kl / self.config.target - 1, -MOST_ERROR), MOST_ERROR)
        self.coefficient *= 1 + error * num_completions / self.config.horizon

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coefficient = state["coefficient"]
