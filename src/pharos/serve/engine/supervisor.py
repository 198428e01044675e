"""Keeps an engine running: starts it, listens to it, and starts it again when it has ended.

After an end that nobody asked for it waits a moment, and longer each time that the engine ends
before it is ready: a model that cannot be loaded is not loaded in a tight loop.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from pharos.core import ModelError
from pharos.serve.engine.hosts import Host
from pharos.serve.engine.worker import Answered, Asked, Failed, Ready, Reported, Stop, Told

LONGEST_WAIT_S = 30.0
LAST_STEP_S = 30.0

log = logging.getLogger(__name__)


class Supervisor:
    """It belongs to the asyncio loop in which it is started. `on_ready` is called whenever a model
    is loaded, before anything else can be sent to its engine, `on_report` for what the engine
    tells, and `on_end` with the reason as soon as it tells nothing any more. `ready` is what it
    said when its model was loaded, None while it does not run; then `reason` says why."""

    def __init__(
        self,
        host: Host,
        *,
        on_ready: Callable[[], None],
        on_report: Callable[[Told | Answered], None],
        on_end: Callable[[str], None],
        wait_s: float,
    ) -> None:
        self.ready: Ready | None = None
        self.reason = "it was not started"
        self._host = host
        self._on_ready = on_ready
        self._on_report = on_report
        self._on_end = on_end
        self._wait_s = wait_s
        self._connection: Connection | None = None
        self._is_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def send(self, asked: Asked) -> None:
        """To an engine that has ended nothing is sent; who listens to it is told of its end."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(asked)

    async def start(self) -> None:
        """Returns when the engine is ready. Raises ModelError if it ends before that."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping.clear()
        self._task = asyncio.create_task(self._run(first))
        try:
            await first
        except ModelError:
            await self.stop()
            raise

    async def until_ready(self) -> None:
        """Returns at once while the engine runs, else when it runs again. Raises ModelError for one
        that will not: it was not started, or is stopped meanwhile."""
        self._refuse_stopped()
        await self._is_ready.wait()
        self._refuse_stopped()

    async def stop(self) -> None:
        """Ends the engine after the step that it is at; one whose step takes too long is killed."""
        if self._task is None:
            return
        self._stopping.set()
        self._is_ready.set()  # whoever waits for it is told
        self.send(Stop())
        _, late = await asyncio.wait([self._task], timeout=LAST_STEP_S)
        if late:
            self._host.kill()
        await self._task
        self._task = None
        self._is_ready.clear()

    def _refuse_stopped(self) -> None:
        if self._task is None or self._stopping.is_set():
            reason = "it was stopped" if self._stopping.is_set() else self.reason
            raise ModelError(f"the engine does not run: {reason}")

    async def _run(self, first: "asyncio.Future[None]") -> None:
        wait_s = self._wait_s
        while not self._stopping.is_set():
            was_ready = await self._live(first)
            wait_s = self._wait_s if was_ready else min(2 * wait_s, LONGEST_WAIT_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _live(self, first: "asyncio.Future[None]") -> bool:
        """From a start of the engine to its end; whether it was ready in between."""
        self.reason = "it is being started; ask again in a moment"
        try:
            connection = self._connection = self._host.start()
        except Exception as error:  # there is no process to be had, say
            self.reason = f"{type(error).__name__}: {error}"
            self._note_end(first, self.reason)
            return False
        last_words = await self._listen(connection, first)
        was_ready, self.ready, self._connection = self.ready is not None, None, None
        self._is_ready.clear()
        unsaid = "it was stopped" if self._stopping.is_set() else "it has ended without a word"
        self.reason = last_words or unsaid
        self._on_end(self.reason)
        connection.close()
        how = await asyncio.to_thread(self._host.wait)
        self._note_end(first, last_words or how)
        return was_ready

    def _note_end(self, first: "asyncio.Future[None]", how: str) -> None:
        if not self._stopping.is_set():
            log.error("the engine has ended: %s", how)
        if not first.done():
            first.set_exception(ModelError(f"the engine did not start: {how}"))

    async def _listen(self, connection: Connection, first: "asyncio.Future[None]") -> str | None:
        """Hears an engine out; its last words, if it has any."""
        inbox: asyncio.Queue[Reported | None] = asyncio.Queue()
        arguments = (connection, asyncio.get_running_loop(), inbox)
        listener = threading.Thread(target=_receive, args=arguments, daemon=True)
        listener.start()
        last_words = None
        while (reported := await inbox.get()) is not None:
            match reported:
                case Ready():
                    self.ready = reported
                    self._on_ready()
                    self._is_ready.set()
                    if not first.done():
                        first.set_result(None)
                case Failed(reason):
                    last_words = reason
                case _:
                    self._on_report(reported)
        listener.join()
        return last_words


def _receive(
    connection: Connection,
    loop: asyncio.AbstractEventLoop,
    inbox: "asyncio.Queue[Reported | None]",
) -> None:
    """Puts what comes into the inbox, and None at the end, whatever that is."""
    try:
        while True:
            loop.call_soon_threadsafe(inbox.put_nowait, connection.recv())
    except (EOFError, OSError):
        return
    finally:
        loop.call_soon_threadsafe(inbox.put_nowait, None)
