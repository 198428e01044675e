"""Putting an endpoint under load.

In a closed loop so many users ask one thing after another: what an endpoint can do. In an open one
requests come at random moments, at a rate that does not care how it is doing (a Poisson process):
how it feels. An endpoint that is asked more than it can do falls behind in an open loop, ever more;
in a closed one it just does not get faster.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from pharos.serve.bench.client import BenchClient, Timing
from pharos.serve.bench.report import LoadReport, summarize
from pharos.serve.bench.saturation import is_saturated
from pharos.serve.bench.workload import Prompt

MOST_LEVELS = 12
REQUESTS_PER_USER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """`concurrency` users in a closed loop, or `rate` requests a second in an open one, whose
    moments are drawn from `seed`. In a sweep that is the first level, and each is twice the last,
    until the endpoint is saturated. Each level has `num_requests`: in a sweep at least a few for
    each user, or as many more as come in the time that the first level takes."""

    num_requests: int = 100
    concurrency: int | None = None
    rate: float | None = None
    is_sweep: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ValueError(
                f"concurrency is {self.concurrency} and rate {self.rate}; give one of them: they "
                "are two kinds of load"
            )
        asked = (self.num_requests, self.concurrency, self.rate)
        if any(value is not None and value <= 0 for value in asked):
            raise ValueError(
                f"num_requests is {self.num_requests}, concurrency {self.concurrency} and rate "
                f"{self.rate}; they must be above 0"
            )

    def doubled(self) -> "Load":
        if self.rate is not None:
            return replace(self, rate=2 * self.rate, num_requests=2 * self.num_requests)
        assert self.concurrency is not None
        return replace(self, concurrency=2 * self.concurrency)


async def measure(
    client: BenchClient, prompts: Iterator[Prompt], load: Load
) -> AsyncIterator[LoadReport]:
    """A report of the load, or in a sweep of each level of it, as soon as it is measured."""
    reports: list[LoadReport] = []
    for _ in range(MOST_LEVELS if load.is_sweep else 1):
        timings = await _loaded(client, prompts, load)
        reports.append(summarize(timings, concurrency=load.concurrency, rate=load.rate))
        yield reports[-1]
        if is_saturated(reports):
            return
        load = load.doubled()


async def _loaded(client: BenchClient, prompts: Iterator[Prompt], load: Load) -> list[Timing]:
    num_requests = load.num_requests
    if load.rate is not None:
        return await open_loop(
            client, prompts, num_requests=num_requests, rate=load.rate, seed=load.seed
        )
    assert load.concurrency is not None
    if load.is_sweep:
        num_requests = max(num_requests, REQUESTS_PER_USER * load.concurrency)
    return await closed_loop(
        client, prompts, num_requests=num_requests, concurrency=load.concurrency
    )


async def closed_loop(
    client: BenchClient, prompts: Iterator[Prompt], *, num_requests: int, concurrency: int
) -> list[Timing]:
    left = islice(prompts, num_requests)

    async def user() -> list[Timing]:
        return [await client.ask(prompt) for prompt in left]

    each = await asyncio.gather(*(user() for _ in range(min(concurrency, num_requests))))
    return [timing for timings in each for timing in timings]


async def open_loop(
    client: BenchClient, prompts: Iterator[Prompt], *, num_requests: int, rate: float, seed: int
) -> list[Timing]:
    """`rate` requests a second on average."""
    random_ = random.Random(seed)
    drawn = list(islice(prompts, num_requests))  # before the clock starts: it may take long
    due_s = time.perf_counter()
    asked = []
    for prompt in drawn:
        asked.append(client.ask(prompt, due_s=due_s))
        due_s += random_.expovariate(rate)
    return list(await asyncio.gather(*asked))
