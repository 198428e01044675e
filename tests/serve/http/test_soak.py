"""Many clients over real sockets at once, of whom some leave at any time."""

import asyncio
import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import psutil
import pytest

from pharos.serve.engine.request import Output, Request, Sequence
from pharos.serve.http.frontend import Job

MOST_IN_HAND = 5
"""Objects that a loop still has in its variables when it waits."""
MOST_GROWN = 32 << 20
"""Bytes of a process's memory: what its allocator may keep to itself."""
SHARED = "The keeper of the light feeds seven gulls by the harbour. "
ASKED: list[dict[str, Any]] = [
    {
        "model": "tiny",
        "prompt": SHARED * (number % 3) + "gulls " * number + "of Alexandria",
        "max_tokens": 8 + 2 * number,
        "seed": number,
        "extra_body": {"ignore_eos": True},
    }
    for number in range(8)
]


@dataclass
class Visitor:
    """Asks for text number `which` and leaves after so many characters (None: it stays to the end),
    or after some turns of the loop, if that is before anything has come."""

    which: int
    enough: int | None
    num_turns: int
    text: str = ""
    has_ended: bool = False

    async def visit(self, client: openai.AsyncOpenAI) -> None:
        reading = asyncio.create_task(self._read(client))
        if self.enough == 0:
            for _ in range(self.num_turns):
                await asyncio.sleep(0)
            reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    async def _read(self, client: openai.AsyncOpenAI) -> None:
        async with await client.completions.create(**ASKED[self.which], stream=True) as stream:
            async for chunk in stream:
                self.text += chunk.choices[0].text
                self.has_ended = chunk.choices[0].finish_reason is not None
                if self.enough is not None and len(self.text) >= self.enough:
                    return


def visitors(number: int, *, seed: int) -> Iterator[Visitor]:
    """Three of ten leave, some of them before anything has come."""
    dice = random.Random(seed)
    for _ in range(number):
        leaves = dice.random() < 0.3
        enough = max(0, dice.randrange(-4, 10)) if leaves else None
        yield Visitor(dice.randrange(len(ASKED)), enough, dice.randrange(100))


async def soak(url: str, number: int, *, at_a_time: int, seed: int) -> None:
    """Everybody gets the text of its prompt for as long as it stays, and nobody else's."""
    seats, all_of = asyncio.Semaphore(at_a_time), list(visitors(number, seed=seed))
    settings: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 600}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", **settings) as client:
        alone = [Visitor(which, None, 0) for which in range(len(ASKED))]
        for visitor in alone:
            await visitor.visit(client)

        async def seated(visitor: Visitor) -> None:
            async with seats:
                await visitor.visit(client)

        await asyncio.gather(*map(seated, all_of))
    for visitor in all_of:
        whole = alone[visitor.which].text
        assert whole.startswith(visitor.text), "somebody else's text"
        assert visitor.enough is not None or (visitor.has_ended and visitor.text == whole)
    assert sum(not visitor.has_ended for visitor in all_of) > number // 6


def until_nothing_runs(running: Any) -> None:
    """Ask again and again: who has left is noticed a moment later."""
    for _ in range(5_000):
        assert httpx.get(f"{running.url}/health").status_code == 200
        stats, pending = running.frontend.engine.stats(), running.frontend.admission.num_pending
        if (stats.num_running, stats.num_waiting, stats.kv_usage, pending) == (0, 0, 0.0, 0):
            return
    raise AssertionError(f"something still runs: {stats}, {pending} requests under way")


def num_alive() -> int:
    """What there is of requests and of what is made for them."""
    gc.collect()
    kinds = {Job, Request, Sequence, Output}
    return sum(type(each) in kinds for each in gc.get_objects())


def soaked(running: Any, *, num_requests: int, at_a_time: int) -> None:
    found: list[tuple[int, int]] = []
    for seed, number in enumerate((at_a_time, num_requests)):
        asyncio.run(soak(running.url, number, at_a_time=at_a_time, seed=seed))
        until_nothing_runs(running)
        found.append((num_alive(), psutil.Process().memory_info().rss))
    (before, memory_before), (after, memory_after) = found
    assert after <= before + MOST_IN_HAND
    grown = memory_after - memory_before
    assert grown < MOST_GROWN, f"{grown >> 20} MB more than before"


def test_clients_that_leave_their_connections_leave_nothing_behind(serve: Any) -> None:
    with serve() as running:
        soaked(running, num_requests=60, at_a_time=16)


@pytest.mark.long
def test_2000_clients_over_sockets_leave_nothing_behind(serve: Any) -> None:
    with serve() as running:
        soaked(running, num_requests=2000, at_a_time=64)
