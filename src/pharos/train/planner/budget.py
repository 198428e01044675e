"""From what is given about a run to the rest of it.

    compute = FLOPs per token · tokens            6 N, or more where the model's shape is known
    compute = GPU-hours · 3600 · peak · MFU
    money   = GPU-hours · price                   GPU-hours = GPUs · days · 24

So each of `compute`, `money`, `gpus` with `days`, and `params` with `tokens` says how large the run
is, and two of them would say it twice. Where size is known, one of `params` and `tokens` gives the
other, and neither leaves both to the scaling law; where only one of `params` and `tokens` is known,
the law gives the other. Then one of `gpus` and `days` gives the other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from pharos.train.planner.scaling import REFIT, ScalingLaw

SECONDS_PER_HOUR = 3600
HOURS_PER_DAY = 24
FlopsPerToken = Callable[[float], float]
"""From the number of parameters; a model whose shape is known ignores it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What is known of a run: FLOPs, parameters, tokens, US dollars, days, devices."""

    compute: float | None = None
    params: float | None = None
    tokens: float | None = None
    money: float | None = None
    days: float | None = None
    gpus: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field.name} is {value}; it must be a number above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a device does and costs: `flops` is its peak, of which the run reaches the share `mfu`
    (model FLOPs utilization); `price` is in dollars per hour."""

    flops: float
    mfu: float
    price: float

    def __post_init__(self) -> None:
        if not 0 < self.mfu <= 1:
            raise ValueError(
                f"mfu is {self.mfu}; it is the share of the peak that is reached: above 0, at most "
                "1, and in practice 0.3 to 0.5"
            )
        if not (self.price > 0 and math.isfinite(self.price)):
            raise ValueError(f"price is {self.price}; it must be dollars per hour, above 0")

    def compute(self, gpu_hours: float) -> float:
        return gpu_hours * SECONDS_PER_HOUR * self.flops * self.mfu

    def gpu_hours(self, compute: float) -> float:
        return compute / (SECONDS_PER_HOUR * self.flops * self.mfu)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A run's size and cost. `params` are those that a token meets."""

    compute: float
    params: float
    tokens: float
    gpu_hours: float
    money: float


def plan_budget(
    given: Given,
    rates: Rates,
    *,
    law: ScalingLaw = REFIT,
    flops_per_token: FlopsPerToken | None = None,
) -> Budget:
    """Raises ValueError where `given` says too little, or says the same thing twice."""
    flops_per_token = flops_per_token or _six
    compute = _known_compute(given, rates, flops_per_token)
    params, tokens = given.params, given.tokens
    if compute is None:
        params, tokens = _by_law(params, tokens, law)
        compute = flops_per_token(params) * tokens
    elif params is None and tokens is None:
        optimum = law.optimum(compute)
        params, tokens = optimum.parameters, optimum.tokens
    elif params is None and tokens is not None:
        params = compute / tokens / _six(1)
    elif params is not None and tokens is None:
        tokens = compute / flops_per_token(params)
    assert params is not None and tokens is not None
    hours = rates.gpu_hours(compute)
    return Budget(
        compute=compute,
        params=params,
        tokens=tokens,
        gpu_hours=hours,
        money=hours * rates.price,
    )


def _six(params: float) -> float:
    return 6 * params


def _known_compute(given: Given, rates: Rates, flops_per_token: FlopsPerToken) -> float | None:
    """The compute that is given, in whichever words; None if it is not."""
    said: dict[str, float] = {}
    if given.compute is not None:
        said["compute"] = given.compute
    if given.money is not None:
        said["money"] = rates.compute(given.money / rates.price)
    if given.gpus is not None and given.days is not None:
        said["gpus and days"] = rates.compute(given.gpus * given.days * HOURS_PER_DAY)
    if given.params is not None and given.tokens is not None:
        said["params and tokens"] = flops_per_token(given.params) * given.tokens
    if len(said) > 1:
        values = ", ".join(f"{value:.3g} FLOP by {name}" for name, value in said.items())
        ways = [" or ".join(name.split(" and ")) for name in said]
        raise ValueError(
            f"the size of the run is given {len(said)} times: {values}; it follows from each of "
            f"them, so leave out {', or '.join(ways)}"
        )
    return next(iter(said.values()), None)


def _by_law(params: float | None, tokens: float | None, law: ScalingLaw) -> tuple[float, float]:
    if params is not None:
        return params, law.tokens_for(params)
    if tokens is not None:
        return law.parameters_for(tokens), tokens
    raise ValueError(
        "nothing says how large the run is: give compute, money, params, tokens, or gpus with days"
    )
