"""The engine's loop, and what goes over the pipe between it and its client.

    client ── Add, Abort, Call, Stop ──► loop ── Ready, Told, Answered, Failed ──► client

It is the same loop in a thread (`run`) and in a process of its own (`main`). It reads what has
come, steps, and tells what is new, once a step; when there is nothing to do it sleeps until
something comes. `Told` is its heartbeat too: after each step, and once in HEARTBEAT_S when it
sleeps. It ends when it is told to, or when there is nobody any more at the other end.
"""

import contextlib
import gc
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, Literal

from pharos.core import PharosError
from pharos.serve.engine.engine import Engine, News
from pharos.serve.engine.request import Refusal, Request
from pharos.serve.engine.stats import EngineStats

HEARTBEAT_S = 1.0
Method = Literal["load_adapter", "unload_adapter"]
BuildEngine = Callable[[], Engine]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Add:
    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class Call:
    """A method of the engine, to be answered under `number`."""

    number: int
    method: Method
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    pass


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded. `max_len` is the longest sequence that the engine can hold."""

    max_len: int


@dataclass(frozen=True, slots=True)
class Told:
    """What is new, and how the engine is."""

    news: list[News]
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Answered:
    """`error` is why a call was refused."""

    number: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The loop has ended by itself, for that `reason`."""

    reason: str


Asked = Add | Abort | Call | Stop
Reported = Ready | Told | Answered | Failed


def run(build: BuildEngine, connection: Connection) -> None:
    """Builds the engine and runs it until the end."""
    inbox: SimpleQueue[Asked] = SimpleQueue()
    listener = threading.Thread(target=_listen, args=(connection, inbox), daemon=True)
    listener.start()
    line = _Line(connection)
    engine = None
    try:
        engine = build()
        engine.on_loss(line.hang_up)
        _Loop(engine, inbox, line).run()
    except (BrokenPipeError, ConnectionResetError):
        log.info("the engine's client is gone, and so is the engine")
    except Exception as error:
        log.exception("the engine has failed")
        line.hang_up(_reason(error))
    finally:
        line.hang_up()
        if engine is not None:
            engine.close()
        listener.join()
        connection.close()


def main(descriptor: int) -> None:
    """In a process of its own: how to build the engine comes first."""
    connection = Connection(descriptor)
    build: BuildEngine = connection.recv()

    def build_to_stay() -> Engine:
        engine = build()
        gc.collect()
        gc.freeze()  # what there is now stays: the collector need not look at it again
        return engine

    run(build_to_stay, connection)


class _Loop:
    def __init__(self, engine: Engine, inbox: "SimpleQueue[Asked]", line: "_Line") -> None:
        self._engine = engine
        self._inbox = inbox
        self._line = line

    def run(self) -> None:
        self._line.tell(Ready(self._engine.max_len))
        while True:
            news: list[News] = []
            for asked in self._arrived():
                if isinstance(asked, Stop):
                    return
                news += self._handle(asked)
            if self._engine.has_work:
                news += self._engine.step()
            self._line.tell(Told(news, self._engine.stats))

    def _arrived(self) -> Iterator[Asked]:
        """What is in the inbox; if there is nothing to do until something comes, waits for it."""
        timeout_s = 0.0 if self._engine.has_work else HEARTBEAT_S
        try:
            yield self._inbox.get(block=timeout_s > 0, timeout=timeout_s)
            while True:
                yield self._inbox.get_nowait()
        except Empty:
            return

    def _handle(self, asked: Add | Abort | Call) -> list[News]:
        match asked:
            case Add(request):
                try:
                    self._engine.add(request)
                except ValueError as error:
                    return [Refusal(request_id=request.id, reason=str(error))]
            case Abort(request_id):
                self._engine.abort(request_id)
            case Call(number, method, arguments):
                self._line.tell(Answered(number, self._refusal_of(method, arguments)))
        return []

    def _refusal_of(self, method: Method, arguments: tuple[Any, ...]) -> str | None:
        try:
            getattr(self._engine, method)(*arguments)
        except (PharosError, ValueError) as error:
            return str(error)
        return None


def _listen(connection: Connection, inbox: "SimpleQueue[Asked]") -> None:
    """Takes in what comes, so that the client never has to wait for a step to end."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):  # the other end is closed, or this one
            inbox.put(Stop())
            return


class _Line:
    """This end of the pipe, for any thread to speak through."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def tell(self, reported: Reported) -> None:
        with self._lock:
            self._connection.send(reported)

    def hang_up(self, reason: str | None = None) -> None:
        """Ends it, with last words if there is a reason. To close the pipe would not do: as long as
        a thread here reads from it, it stays open, and the other end waits on."""
        with (
            self._lock,
            socket.socket(fileno=os.dup(self._connection.fileno())) as end,
            contextlib.suppress(OSError),  # it has ended before
        ):
            if reason is not None:
                self._connection.send(Failed(reason))
            end.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    is_plain = isinstance(error, PharosError | ValueError)
    return str(error) if is_plain else f"{type(error).__name__}: {error}"
