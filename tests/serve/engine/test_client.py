"""The engine as asyncio sees it: in a thread, which is the same loop, and once in a process."""

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from pharos.core import ModelError, SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.doubles import tiny_llama
from pharos.models.generation import Generation
from pharos.models.load import load_model
from pharos.serve.engine import worker
from pharos.serve.engine.build import EngineConfig, build_engine, engine_over
from pharos.serve.engine.client import EngineClient
from pharos.serve.engine.engine import Engine, News
from pharos.serve.engine.hosts import InProcess, InThread
from pharos.serve.engine.request import Output, Request, Sequence
from pharos.serve.engine.scheduler import SchedulerConfig

MODEL = tiny_llama()
PATIENCE_S = 120.0
MOST_IN_HAND = 5
"""Objects that a loop still has in its variables when it waits."""
MOST_GROWN = 16 << 20
"""Bytes of a process's memory: what its allocator may keep to itself."""


def tiny_engine() -> Engine:
    scheduling = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=32)
    return engine_over(MODEL, None, EngineConfig(scheduler=scheduling, num_blocks=40, block_size=4))


def request(name: str = "a", prompt: tuple[int, ...] = (1, 2, 3), **values: Any) -> Request:
    params = SamplingParams(**{"max_tokens": 12, "temperature": 1.0} | values)
    return Request(id=name, prompt=prompt, params=params, seed=sum(prompt))


def generated(asked: Request) -> list[int]:
    params = SamplingParams(
        max_tokens=asked.params.max_tokens, temperature=asked.params.temperature, seed=asked.seed
    )
    return [token.id for token in Generation(MODEL, [asked.prompt], params)]


async def outputs_of(client: EngineClient, asked: Request) -> list[Output]:
    async with aclosing(client.generate(asked)) as outputs:
        return [output async for output in outputs]


def ids_of(outputs: list[Output]) -> list[int]:
    return [token.id for output in outputs for token in output.tokens]


def with_client(
    use: Callable[[EngineClient], Coroutine[Any, Any, None]],
    build: Callable[[], Engine] = tiny_engine,
    **values: Any,
) -> None:
    async def run() -> None:
        async with EngineClient(InThread(build), **values) as client:
            await use(client)

    asyncio.run(run())


# Requests


def test_each_request_gets_its_own_text() -> None:
    requests = [request(str(i), (i + 1, 7)) for i in range(12)]

    async def use(client: EngineClient) -> None:
        texts = await asyncio.gather(*(outputs_of(client, each) for each in requests))
        assert [ids_of(text) for text in texts] == [generated(each) for each in requests]
        assert all(text[-1].finish_reason == "length" for text in texts)

    with_client(use)


def test_a_request_that_is_closed_is_aborted() -> None:
    async def use(client: EngineClient) -> None:
        async with aclosing(client.generate(request("long", max_tokens=100))) as outputs:
            first = await anext(outputs)
            assert first.finish_reason is None
        assert ids_of(await outputs_of(client, request("after"))) == generated(request("after"))
        assert client.stats().num_running == 0
        assert client.stats().kv_usage == 0.0
        assert len(engine._jobs) == 0

    engine = tiny_engine()
    with_client(use, lambda: engine)


def test_a_request_that_is_cancelled_while_it_waits_is_aborted() -> None:
    async def use(client: EngineClient) -> None:
        task = asyncio.create_task(outputs_of(client, request("waiting", max_tokens=100)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await outputs_of(client, request("after"))
        assert not engine.has_work

    engine = tiny_engine()
    with_client(use, lambda: engine)


def test_what_can_never_be_answered_is_a_value_error() -> None:
    async def use(client: EngineClient) -> None:
        with pytest.raises(ValueError, match="token 50; the vocabulary goes from 0 to 49"):
            await outputs_of(client, request(prompt=(50,)))
        with pytest.raises(ValueError, match="shorten one of them, or give the cache more memory"):
            await outputs_of(client, request(max_tokens=200))

    with_client(use)


def test_an_id_may_be_used_again_and_at_the_same_time() -> None:
    async def use(client: EngineClient) -> None:
        async with aclosing(client.generate(request("same", max_tokens=100))) as outputs:
            await anext(outputs)
            other = request("same", (4, 5))
            assert ids_of(await outputs_of(client, other)) == generated(other)
        told = await outputs_of(client, request("same"))
        assert ids_of(told) == generated(request("same"))
        assert {output.request_id for output in told} == {"same"}

    with_client(use)


def test_a_slow_reader_gets_all_of_it_in_few_outputs() -> None:
    async def use(client: EngineClient) -> None:
        slow = request("slow", max_tokens=40)
        async with aclosing(client.generate(slow)) as outputs:
            told = [await anext(outputs)]
            await outputs_of(client, request("meanwhile", max_tokens=100))
            told += [output async for output in outputs]
        assert ids_of(told) == generated(slow)
        assert len(told) == 2
        assert told[-1].num_generated == 40

    with_client(use)


def test_adapters_are_refused_in_the_engines_words(tmp_path: Path) -> None:
    async def use(client: EngineClient) -> None:
        with pytest.raises(ValueError, match=str(tmp_path)):
            await client.load_adapter("legal", tmp_path / "nothing")
        with pytest.raises(ValueError, match="there is no adapter 'legal'; loaded are none"):
            await client.unload_adapter("legal")

    with_client(use)


def test_an_adapter_that_is_unloaded_while_it_is_loaded_is_not_loaded_again() -> None:
    engine = tiny_engine()
    engine.load_adapter = lambda *_: None  # type: ignore[method-assign]
    engine.unload_adapter = lambda *_: None  # type: ignore[method-assign]

    async def use(client: EngineClient) -> None:
        loading = client.load_adapter("legal", Path("legal"))
        await asyncio.gather(loading, client.unload_adapter("legal"))
        assert not client._adapters

    with_client(use, lambda: engine)


# Its life


def test_before_its_start_an_engine_answers_with_an_error() -> None:
    client = EngineClient(InThread(tiny_engine))
    (output,) = asyncio.run(outputs_of(client, request()))
    assert output.finish_reason == "error"
    assert output.error == "the engine does not run: it was not started"
    assert not client.is_healthy


def test_a_model_that_cannot_be_loaded_is_told_at_the_start(tmp_path: Path) -> None:
    async def run() -> None:
        client = EngineClient(InThread(partial(build_engine, tmp_path, EngineConfig())))
        with pytest.raises(ModelError, match=f"the engine did not start: .*{tmp_path}"):
            await client.start()

    asyncio.run(run())


def test_a_process_that_cannot_be_had_is_told_at_the_start() -> None:
    def build() -> Engine:
        raise AssertionError("it cannot be pickled, so it is not called")

    async def run() -> None:
        client = EngineClient(InProcess(build))
        with pytest.raises(ModelError, match=r"the engine did not start: .*pickle"):
            await asyncio.wait_for(client.start(), PATIENCE_S)
        await client.stop()

    asyncio.run(run())


def test_a_process_that_cannot_be_had_once_is_asked_for_again() -> None:
    class Refused(InThread):
        num_starts = 0

        def start(self) -> Connection:
            self.num_starts += 1
            if self.num_starts == 2:
                raise BlockingIOError("too many processes")
            return super().start()

    engines: list[Engine] = []

    def build() -> Engine:
        engines.append(tiny_engine())
        return engines[-1]

    async def run() -> None:
        async with EngineClient(Refused(build), restart_s=0.0) as client:
            engines[0].step = None  # type: ignore[method-assign, assignment]
            (failed,) = await outputs_of(client, request("a"))
            assert failed.finish_reason == "error"
            await asyncio.wait_for(client.until_ready(), PATIENCE_S)
            assert ids_of(await outputs_of(client, request("a"))) == generated(request("a"))

    asyncio.run(run())


def test_an_engine_that_is_silent_too_long_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.01)
    now = 0.0

    async def use(client: EngineClient) -> None:
        nonlocal now
        assert client.is_healthy
        now += PATIENCE_S + 1
        assert not client.is_healthy
        while not client.is_healthy:  # until its next heartbeat
            await asyncio.sleep(0)

    with_client(use, patience_s=PATIENCE_S, clock=lambda: now)


def test_an_engine_that_fails_fails_its_requests_and_is_started_again() -> None:
    engines: list[Engine] = []

    def build() -> Engine:
        engines.append(tiny_engine())
        return engines[-1]

    async def use(client: EngineClient) -> None:
        async with aclosing(client.generate(request("a", max_tokens=100))) as outputs:
            await anext(outputs)
            engines[0].step = None  # type: ignore[method-assign, assignment]
            told = [output async for output in outputs]
            assert told[-1].finish_reason == "error"
            assert "TypeError: 'NoneType' object is not callable" in str(told[-1].error)
            assert not client.is_healthy
            assert client.max_len == 0
        await client.until_ready()
        assert client.is_healthy
        assert ids_of(await outputs_of(client, request("a"))) == generated(request("a"))
        assert len(engines) == 2

    with_client(use, build, restart_s=0.0)


def test_a_lost_part_of_the_model_is_told_at_once_also_by_a_step_that_never_ends() -> None:
    engines: list[Engine] = []
    losses: list[Callable[[str], None]] = []
    is_stuck, may_end = threading.Event(), threading.Event()

    def build() -> Engine:
        engines.append(tiny_engine())
        engines[-1].on_loss = losses.append  # type: ignore[method-assign]
        return engines[-1]

    def stuck_step() -> list[News]:
        is_stuck.set()
        may_end.wait()
        return []

    async def use(client: EngineClient) -> None:
        engines[0].step = stuck_step  # type: ignore[method-assign]
        running = asyncio.create_task(outputs_of(client, request("a")))
        await asyncio.to_thread(is_stuck.wait)
        losses[0]("rank 1 of the model has failed: it ended without a word")
        (failed,) = await running
        assert failed.error == (
            "the engine does not run: rank 1 of the model has failed: it ended without a word"
        )
        assert not client.is_healthy
        may_end.set()
        await client.until_ready()
        assert ids_of(await outputs_of(client, request("a"))) == generated(request("a"))

    with_client(use, build, restart_s=0.0)


def test_stopping_fails_what_still_runs_and_leaves_no_threads() -> None:
    before = threading.enumerate()

    async def run() -> None:
        client = EngineClient(InThread(tiny_engine))
        await client.start()
        async with aclosing(client.generate(request("a", max_tokens=100))) as outputs:
            await anext(outputs)
            await client.stop()
            told = [output async for output in outputs]
        assert told[-1].finish_reason == "error"
        assert told[-1].error == "the engine does not run: it was stopped"
        assert not client.is_healthy

    asyncio.run(run())
    assert set(threading.enumerate()) <= set(before)


def test_nobody_waits_for_an_engine_that_was_stopped() -> None:
    class Once(InThread):
        """There is no second process."""

        num_starts = 0

        def start(self) -> Connection:
            self.num_starts += 1
            if self.num_starts == 2:
                raise BlockingIOError("too many processes")
            return super().start()

    engine = tiny_engine()

    async def run() -> None:
        client = EngineClient(Once(lambda: engine), restart_s=PATIENCE_S)
        with pytest.raises(ModelError, match="the engine does not run: it was not started"):
            await client.until_ready()
        await client.start()
        await client.until_ready()
        engine.step = None  # type: ignore[method-assign, assignment]
        await outputs_of(client, request("a"))
        waiting = asyncio.create_task(client.until_ready())
        await asyncio.sleep(0)
        await client.stop()
        for late in (waiting, client.until_ready()):
            with pytest.raises(ModelError, match="the engine does not run: it was stopped"):
                await asyncio.wait_for(late, PATIENCE_S)

    asyncio.run(run())


def test_an_engine_that_is_being_stopped_is_not_ready() -> None:
    async def run() -> None:
        client = EngineClient(InThread(tiny_engine))
        await client.start()
        stopping = asyncio.create_task(client.stop())
        await asyncio.sleep(0)
        with pytest.raises(ModelError, match="it was stopped"):
            await client.until_ready()
        await stopping
        await client.start()
        await client.until_ready()
        await client.stop()

    asyncio.run(run())


@pytest.mark.slow
def test_a_killed_process_fails_its_requests_and_is_started_again(llama_folder: Path) -> None:
    model, tokenizer = load_model(llama_folder), Tokenizer.load(llama_folder)
    host = InProcess(partial(build_engine, llama_folder, EngineConfig(num_blocks=64)))
    prompt = tokenizer.encode("The keeper")
    params = SamplingParams(max_tokens=20)
    expected = [token.id for token in Generation(model, [prompt], params)]
    asked = Request(id="a", prompt=prompt, params=params)
    endless = Request(id="b", prompt=prompt, params=SamplingParams(max_tokens=1000))

    async def run() -> None:
        async with EngineClient(host, restart_s=0.0) as client:
            outputs = await outputs_of(client, asked)
            assert ids_of(outputs) == expected
            assert "".join(output.text for output in outputs) == tokenizer.decode(expected)
            async with aclosing(client.generate(endless)) as running:
                await anext(running)
                assert host.pid is not None
                os.kill(host.pid, signal.SIGKILL)
                told = [output async for output in running]
                assert told[-1].finish_reason == "error"
                assert not client.is_healthy
            await client.until_ready()
            assert ids_of(await outputs_of(client, asked)) == expected
        assert host.pid is not None
        assert not psutil.pid_exists(host.pid)

    asyncio.run(run())


# Soak

SHORT = [request(prompt=(i + 1, 2 * i + 1, 7), max_tokens=6 + i) for i in range(12)]
SHARED = tuple(range(1, 41))
LONG = [
    request(prompt=(*SHARED[: 13 * (i % 4)], *[i + 3] * (9 + 2 * i)), max_tokens=24 + i)
    for i in range(12)
]
"""They span blocks and steps, and many begin alike."""


def crowded_engine() -> Engine:
    """There is room for what is admitted, and not for all that it becomes."""
    scheduling = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=32, long_prompt_tokens=24)
    config = EngineConfig(scheduler=scheduling, num_blocks=48, num_host_blocks=24, block_size=4)
    return engine_over(MODEL, None, config)


@dataclass
class Visitor:
    """One of ten asks `asked` and has `enough` after so many tokens (None: it stays to the end).
    Who has enough of none leaves while nothing has come yet, after some turns of the loop."""

    asked: Request
    enough: int | None
    num_turns: int
    told: list[Output] = field(default_factory=list)

    @property
    def has_left(self) -> bool:
        return not self.told or self.told[-1].finish_reason is None

    async def visit(self, client: EngineClient) -> None:
        reading = asyncio.create_task(self._read(client))
        if self.enough == 0:
            for _ in range(self.num_turns):
                await asyncio.sleep(0)
            reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    async def _read(self, client: EngineClient) -> None:
        async with aclosing(client.generate(self.asked)) as outputs:
            async for output in outputs:
                self.told.append(output)
                if self.enough is not None and len(ids_of(self.told)) >= self.enough:
                    return


def visitors(asked: list[Request], number: int, *, seed: int) -> Iterator[Visitor]:
    """Three of ten leave at a random moment, from the first on and before the last token."""
    dice = random.Random(seed)
    for name in range(number):
        this = replace(dice.choice(asked), id=str(name))
        most, leaves = this.params.max_tokens, dice.random() < 0.3
        enough = max(0, dice.randrange(-most // 2, most)) if leaves else None
        yield Visitor(this, enough, dice.randrange(200))


async def soak(
    client: EngineClient,
    all_of: list[Visitor],
    texts: dict[tuple[int, ...], list[int]],
    *,
    at_a_time: int,
) -> None:
    """Everybody gets the text of its prompt for as long as it stays, and nobody else's."""
    seats = asyncio.Semaphore(at_a_time)

    async def seated(visitor: Visitor) -> None:
        async with seats:
            await visitor.visit(client)

    await asyncio.gather(*map(seated, all_of))
    for visitor in all_of:
        ids, expected = ids_of(visitor.told), texts[tuple(visitor.asked.prompt)]
        assert ids == expected[: len(ids)], "somebody else's tokens"
        assert visitor.enough is not None or ids == expected


def num_alive() -> int:
    """What there is of requests and of what is made for them."""
    gc.collect()
    kinds = {Request, Sequence, Output, asyncio.Task}
    return sum(type(each) in kinds for each in gc.get_objects())


def soaked(engine: Engine, asked: list[Request], *, num_requests: int, at_a_time: int) -> None:
    texts = {tuple(each.prompt): generated(each) for each in asked}

    async def use(client: EngineClient) -> None:
        baseline: tuple[int, int] | None = None
        for seed, number in enumerate((at_a_time, num_requests)):
            all_of = list(visitors(asked, number, seed=seed))
            await soak(client, all_of, texts, at_a_time=at_a_time)
            assert sum(visitor.has_left for visitor in all_of) > number // 5
            del all_of
            await outputs_of(client, request("last"))
            assert not engine.has_work
            engine.check()
            assert engine.scheduler.pool.num_used == 0
            assert not client._mailboxes
            found = num_alive(), psutil.Process().memory_info().rss
            baseline = baseline or found
        assert baseline is not None
        assert found[0] <= baseline[0] + MOST_IN_HAND
        grown = found[1] - baseline[1]
        assert grown < MOST_GROWN, f"{grown >> 20} MB more than before"
        assert client.is_healthy

    with_client(use, lambda: engine)


def test_clients_that_leave_at_any_time_leave_nothing_behind() -> None:
    soaked(tiny_engine(), SHORT, num_requests=150, at_a_time=32)


def test_neither_do_those_with_long_prompts_that_share_and_are_preempted() -> None:
    engine = crowded_engine()
    soaked(engine, LONG, num_requests=60, at_a_time=24)
    assert engine.stats.num_preemptions > 10
    assert engine.stats.prefix_hits > 500


@pytest.mark.long
@pytest.mark.parametrize(("build", "asked"), [(tiny_engine, SHORT), (crowded_engine, LONG)])
def test_2000_clients_of_whom_many_leave_leave_nothing_behind(
    build: Callable[[], Engine], asked: list[Request]
) -> None:
    soaked(build(), asked, num_requests=2000, at_a_time=64)
