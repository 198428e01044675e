"""Runs the application until it is told to end; then what runs is ended in peace.

On SIGTERM or Ctrl-C no new connection is accepted, and the requests under way have `drain_s` to
end. A second Ctrl-C ends them at once.
"""

import asyncio
import contextlib
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from pharos.core import PharosError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class AddressError(PharosError):
    """The address cannot be listened at."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has the address, and accepts nothing yet: a model is loaded first. Port 0 is
    any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressError(
            f"port {port} of {host} cannot be used: {error.strerror or error}; choose another with "
            "--port, or --host"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """`http://127.0.0.1:8000`"""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def run_server(
    app: ASGIApp,
    listener: socket.socket,
    *,
    drain_s: float,
    on_start: Callable[[], None] = lambda: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Returns when a signal came, or `stop` was set, and the last request has ended."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(drain_s),
    )
    server = _Server(config, on_start)
    stopping = asyncio.create_task(_stopped(server, stop)) if stop is not None else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if stopping is not None:
            stopping.cancel()


class _Server(uvicorn.Server):
    """Ends with its caller, not by the signal that it was sent: the engine must be ended too."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


async def _stopped(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
