"""The engine as asyncio sees it.

    async with EngineClient(InProcess(partial(build_engine, "path/to/model", config))) as client:
        async with aclosing(client.generate(request)) as outputs:
            async for output in outputs: ...

When the engine ends before it is told to, each of its requests ends with an error at once, and it
is started again. Outputs that a slow reader has not taken yet are joined to one.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Self

from pharos.core import ModelError
from pharos.serve.engine.engine import News
from pharos.serve.engine.hosts import Host
from pharos.serve.engine.request import Output, Refusal, Request
from pharos.serve.engine.stats import EngineStats
from pharos.serve.engine.supervisor import Supervisor
from pharos.serve.engine.worker import Abort, Add, Answered, Call, Method, Told

PATIENCE_S = 120.0
RESTART_S = 0.5

log = logging.getLogger(__name__)


class EngineClient:
    """It belongs to the asyncio loop in which it is started. `patience_s` is how long the engine
    may be silent and still be healthy: longer than its longest step. When it has ended it is
    started again in `restart_s`."""

    def __init__(
        self,
        host: Host,
        *,
        patience_s: float = PATIENCE_S,
        restart_s: float = RESTART_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._heard_s = 0.0
        self._stats = EngineStats()
        self._mailboxes: dict[str, _Mailbox] = {}
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._numbers = count()
        self._adapters: dict[str, Path] = {}
        self._engine = Supervisor(
            host,
            on_ready=self._load_again,
            on_report=self._receive,
            on_end=self._fail_all,
            wait_s=restart_s,
        )

    async def start(self) -> None:
        """Returns when the model is loaded. Raises ModelError if it cannot be."""
        await self._engine.start()
        self._heard_s = self._clock()

    async def until_ready(self) -> None:
        """Returns at once while the engine runs, else when it runs again. Raises ModelError for one
        that will not: it was not started, or is stopped meanwhile."""
        await self._engine.until_ready()

    async def stop(self) -> None:
        """Ends the engine. Requests that still run end with an error."""
        await self._engine.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """The outputs of a request, up to the one with a `finish_reason`. Closing the generator
        aborts it. Raises ValueError for a request that can never be answered."""
        if self._engine.ready is None:
            yield replace(_failure(self._engine.reason), request_id=request.id)
            return
        # A name of our own: by its own, what is still under way of a request that was closed could
        # be taken for the news of another.
        id_ = f"{next(self._numbers)}:{request.id}"
        mailbox = self._mailboxes[id_] = _Mailbox()
        self._engine.send(Add(replace(request, id=id_)))
        is_over = False
        try:
            while not is_over:
                news = await mailbox.get()
                is_over = _is_last(news)
                if isinstance(news, Refusal):
                    raise ValueError(news.reason)
                yield replace(news, request_id=request.id)
        finally:
            del self._mailboxes[id_]
            if not is_over:
                self._engine.send(Abort(id_))

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Raises ValueError for an adapter that does not fit the model. An engine that is started
        again loads it again."""
        await self._call("load_adapter", name, folder)
        self._adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        """Raises ValueError if there is none of that name."""
        await self._call("unload_adapter", name)
        self._adapters.pop(name, None)

    @property
    def is_healthy(self) -> bool:
        """Whether the engine's loop goes round."""
        is_heard = self._clock() - self._heard_s < self._patience_s
        return self._engine.ready is not None and is_heard

    @property
    def max_len(self) -> int:
        """The longest sequence that the engine can hold; 0 while it does not run."""
        return 0 if self._engine.ready is None else self._engine.ready.max_len

    def stats(self) -> EngineStats:
        """As the engine told them after its last step, or since."""
        return self._stats

    async def _call(self, method: Method, *arguments: object) -> None:
        if self._engine.ready is None:
            raise ModelError(f"the engine does not run: {self._engine.reason}")
        await self._asked(method, *arguments)

    def _asked(self, method: Method, *arguments: object) -> "asyncio.Future[None]":
        """The answer that will come."""
        number = next(self._numbers)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._calls.pop(number))
        self._engine.send(Call(number, method, arguments))
        return answer

    def _load_again(self) -> None:
        """An engine that was started again has none of the adapters."""
        for name, folder in self._adapters.items():
            self._asked("load_adapter", name, folder).add_done_callback(partial(_note_loss, name))

    def _receive(self, reported: Told | Answered) -> None:
        self._heard_s = self._clock()
        match reported:
            case Told(all_news, stats):
                self._stats = stats
                for news in all_news:
                    if news.request_id in self._mailboxes:  # else it was aborted meanwhile
                        self._mailboxes[news.request_id].put(news)
            case Answered(number, error):
                if number in self._calls and not self._calls[number].done():
                    _settle(self._calls[number], error)

    def _fail_all(self, reason: str) -> None:
        self._stats = EngineStats()
        for mailbox in self._mailboxes.values():
            mailbox.put(_failure(reason))
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(ModelError(f"the engine has ended: {reason}"))


class _Mailbox:
    """What came for a request and was not taken yet, as one output."""

    def __init__(self) -> None:
        self._news: News | None = None
        self._has_come = asyncio.Event()

    def put(self, news: News) -> None:
        if self._news is None:
            self._news = news
        elif not _is_last(self._news):
            self._news = _joined(self._news, news)
        self._has_come.set()

    async def get(self) -> News:
        await self._has_come.wait()
        self._has_come.clear()
        news, self._news = self._news, None
        assert news is not None
        return news


def _joined(first: News, second: News) -> News:
    if isinstance(first, Refusal) or isinstance(second, Refusal):
        return second
    return replace(second, text=first.text + second.text, tokens=first.tokens + second.tokens)


def _is_last(news: News) -> bool:
    return isinstance(news, Refusal) or news.finish_reason is not None


def _failure(reason: str) -> Output:
    error = f"the engine does not run: {reason}"
    return Output(request_id="", finish_reason="error", error=error)


def _settle(answer: "asyncio.Future[None]", error: str | None) -> None:
    if error is None:
        answer.set_result(None)
    else:
        answer.set_exception(ValueError(error))


def _note_loss(name: str, answer: "asyncio.Future[None]") -> None:
    if not answer.cancelled() and answer.exception() is not None:
        log.error("the adapter %s could not be loaded again: %s", name, answer.exception())
