"""How the learning rate goes over a run: a pure function of the step, so there is nothing to save.

    Schedule(ScheduleConfig(name="cosine", warmup_steps=100), steps=2000).factor(step)

The factor multiplies the highest learning rate. It rises linearly in the warm-up, never from zero
(the first step would be wasted), and then falls to `final`:

    constant    not at all
    linear      evenly
    cosine      along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)
    wsd         stays (warm-up, stable, decay), and falls in the last `decay_steps` as 1 − √x
                (Hägele et al. 2024, arXiv:2405.18392)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Name = Literal["constant", "linear", "cosine", "wsd"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """`final` is the share of the learning rate that is left at the end (0.1 unless given).
    `decay_steps` is how long wsd decays (a fifth of the run unless given)."""

    name: Name = "cosine"
    warmup_steps: int = 0
    final: float | None = None
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            names = ", ".join(get_args(Name))
            raise ValueError(f"unknown schedule {self.name!r}; choose from {names}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be 0 (none) or more")
        if self.final is not None and not 0 <= self.final <= 1:
            raise ValueError(f"final is {self.final}; it is a share of lr, from 0 to 1")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"decay_steps is {self.decay_steps}; it must be at least 1")
        if self.final is not None and self.name == "constant":
            raise ValueError(
                "final is where a schedule falls to, and name is constant; leave it out"
            )
        if self.decay_steps is not None and self.name != "wsd":
            raise ValueError(
                f"decay_steps is a setting of wsd, and name is {self.name}: it falls from the end "
                "of the warm-up to the last step; leave decay_steps out"
            )


class Schedule:
    """Of a run of so many steps. Raises ValueError where the warm-up and the decay do not fit."""

    def __init__(self, config: ScheduleConfig, *, steps: int) -> None:
        self.config, self.steps = config, steps
        self.final = 0.1 if config.final is None else config.final
        self.decay_steps = config.decay_steps or max(1, steps // 5)
        taken = config.warmup_steps + (self.decay_steps if config.name == "wsd" else 0)
        if taken > steps:
            decay = f" and decay_steps {self.decay_steps}" if config.name == "wsd" else ""
            raise ValueError(
                f"warmup_steps {config.warmup_steps}{decay} do not fit into {steps} steps; make "
                "them fewer, or the run longer"
            )

    def factor(self, step: int) -> float:
        """Of the optimizer step with this number; the first is 0."""
        warmup = self.config.warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.config.name == "constant":
            return 1.0
        length = self.decay_steps if self.config.name == "wsd" else self.steps - warmup
        done = (step - (self.steps - length)) / max(length, 1)
        left = SHAPES[self.config.name](min(max(done, 0.0), 1.0))
        return self.final + (1 - self.final) * left


SHAPES: Mapping[Name, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "wsd": lambda done: 1 - math.sqrt(done),
}
"""From 1 to 0 while `done` goes from 0 to 1."""
