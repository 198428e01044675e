"""Whether an endpoint keeps up, on clocks of our own."""

import asyncio
import heapq
import random
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.serve.bench import (
    BenchClient,
    Load,
    LoadReport,
    Prompt,
    Span,
    Timing,
    is_saturated,
    measure,
    pace_of,
    random_prompts,
    saturation,
    summarize,
)


def timing(due_s: float, end_s: float, num_output: int = 1) -> Timing:
    return Timing(due_s=due_s, sent_s=due_s, end_s=end_s, pieces_s=(end_s,), num_output=num_output)


def load_of(*, rate: float, num_requests: int, seed: int) -> list[float]:
    """Moments at which requests are due."""
    random_ = random.Random(seed)
    return list(accumulate(random_.expovariate(rate) for _ in range(num_requests)))


def answered(due_s: list[float], *, num_servers: int, take_s: float) -> list[Timing]:
    """By so many servers, first come, first served, each of which takes so long for one."""
    free_s = [0.0] * num_servers
    timings = []
    for due in due_s:
        end = max(due, heapq.heappop(free_s)) + take_s
        heapq.heappush(free_s, end)
        timings.append(timing(due, end))
    return timings


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 16), st.sampled_from([0.3, 0.6, 1.5, 3.0]))
def test_an_endpoint_keeps_up_with_what_it_can_do_and_with_nothing_more(
    seed: int, num_servers: int, load: float
) -> None:
    due_s = load_of(rate=load * num_servers / 2.0, num_requests=400, seed=seed)
    pace = pace_of(answered(due_s, num_servers=num_servers, take_s=2.0), rate=1.0)
    assert pace.is_certain
    assert pace.keeps_up == (load < 1.0)
    if load > 1.0:
        assert pace.achieved == pytest.approx(num_servers / 2.0, rel=0.1)


def test_requests_that_take_long_are_no_sign_of_falling_behind() -> None:
    due_s = [0.1 * number for number in range(100)]
    timings = answered(due_s, num_servers=100, take_s=5.0)
    report = summarize(timings, rate=10.0)
    assert report.request_throughput < 7.0, "five of fifteen seconds are those of the last ones"
    assert report.pace is not None and report.pace.keeps_up
    assert report.pace.num_under_way == 50
    assert saturation([report]) is None


def test_who_refuses_half_does_not_keep_up() -> None:
    due_s = [0.1 * number for number in range(100)]
    timings = answered(due_s, num_servers=100, take_s=0.1)
    refused = [replace(t, error="429") if number % 2 else t for number, t in enumerate(timings)]
    assert pace_of(refused, rate=10.0).achieved == pytest.approx(5.0, rel=0.01)


def test_of_requests_that_come_all_at_once_little_can_be_said() -> None:
    for due_s in ([0.0], [0.0] * 9, [0.0, 1e-6, 2e-6, 3e-6, 4e-6]):
        pace = pace_of(answered(due_s, num_servers=1, take_s=1.0), rate=5.0)
        assert not pace.is_certain and not pace.keeps_up
        assert pace.achieved == pytest.approx(1.0, rel=1e-3)


def test_a_sweep_of_rates_says_where_the_endpoint_falls_behind() -> None:
    class Client(BenchClient):
        """It answers five a second, by a clock of its own."""

        free_s = 0.0

        async def ask(self, prompt: Prompt, *, due_s: float | None = None) -> Timing:
            assert due_s is not None
            self.free_s = max(due_s, self.free_s) + 0.2
            return timing(due_s, self.free_s)

    async def run() -> list[LoadReport]:
        load = Load(num_requests=100, rate=0.5, is_sweep=True, seed=1)
        prompts = random_prompts(words=Span(2, 5), output=Span(3, 3), seed=1)
        reports = []
        for _ in range(9):  # each with a client that has nothing left to do
            async with Client("http://localhost:1/v1", model="m") as client:
                measured = measure(client, prompts, replace(load, is_sweep=False))
                reports += [report async for report in measured]
            if is_saturated(reports):
                break
            load = load.doubled()
        return reports

    found = saturation(asyncio.run(run()))
    assert found is not None
    assert (found.before, found.level) == (4.0, 8.0)
    assert found.requests_per_s == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize(
    ("throughputs", "expected"), [([10.0], False), ([10.0, 15.0], False), ([10.0, 10.1], True)]
)
def test_an_endpoint_is_saturated_when_more_users_get_no_more_out_of_it(
    throughputs: list[float], expected: bool
) -> None:
    reports = [
        summarize([timing(0.0, 1.0, round(10 * each))], concurrency=2**number)
        for number, each in enumerate(throughputs)
    ]
    assert is_saturated(reports) is expected
