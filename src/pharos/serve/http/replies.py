"""Two kinds of response whose work ends when the client goes away: one JSON object, or a stream.

A web framework notices a client that left when it writes to it. A request that waits for its turn,
or whose prompt is still being read, writes nothing for a long time. So the connection is watched
while the work is done, in both kinds, and the work is cancelled when it closes.

Server-sent events follow the WHATWG's standard. While there is nothing to tell, a comment is sent
now and then, so that no proxy takes the connection for dead.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pharos.serve.http.errors import ApiError

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Event(NamedTuple):
    """`data` is sent as JSON, or as it is if it is a text."""

    data: Mapping[str, Any] | str
    name: str | None = None

    def encoded(self) -> bytes:
        # No separator of lines can stand in JSON, nor in what is sent as it is.
        text = self.data if isinstance(self.data, str) else json_text(self.data)
        head = "" if self.name is None else f"event: {self.name}\n"
        return f"{head}data: {text}\n\n".encode("utf-8", errors="replace")


DONE = Event("[DONE]")
KEEP_ALIVE = b": keep-alive\n\n"
T = TypeVar("T")
OnError = Callable[[ApiError], list[Event]]


def json_text(value: Any) -> str:
    """Compact. A lone half of a surrogate pair is escaped by no one, and replaced when encoded."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Reply(Response):
    """One JSON object, which `work` makes."""

    media_type = "application/json"

    def __init__(self, work: Coroutine[Any, Any, Mapping[str, Any]]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await while_connected(receive, self._work)
        if content is not None:
            text = json_text(content).encode("utf-8", errors="replace")
            response = Response(text, media_type=self.media_type)
            await response(scope, receive, send)


class EventStream(Response):
    """Events as they come. What fails before the first one is an HTTP error; what fails later is
    told by the events that `on_error` makes of it. A client that has not taken what it was sent
    `timeout_s` after the beginning counts as one that left."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[Event, None],
        *,
        keep_alive_s: float,
        timeout_s: float,
        on_error: OnError,
    ) -> None:
        super().__init__()
        self._events = events
        self._keep_alive_s = keep_alive_s
        self._timeout_s = timeout_s
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError):
            await while_connected(receive, self._send_all(scope, receive, send))

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False
        deadline = asyncio.get_running_loop().time() + self._timeout_s

        async def write(body: bytes, *, more_body: bool = True) -> None:
            nonlocal is_started
            async with asyncio.timeout_at(deadline):  # when it is over, what need not wait is sent
                if not is_started:
                    await send(self._start())
                    is_started = True
                await send({"type": "http.response.body", "body": body, "more_body": more_body})

        try:
            await self._pump(write)
        except ApiError as error:
            if not is_started:
                await error_response(error)(scope, receive, send)
                return
            for event in self._on_error(error):
                await write(event.encoded())
        await write(b"", more_body=False)

    async def _pump(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        async with aclosing(self._events) as events:
            while True:
                coming = asyncio.ensure_future(anext(events, None))
                try:
                    while not (await asyncio.wait({coming}, timeout=self._keep_alive_s))[0]:
                        await write(KEEP_ALIVE)
                finally:
                    await _ended(coming)
                event = coming.result()
                if event is None:
                    return
                await write(event.encoded())

    def _start(self) -> dict[str, Any]:
        headers = HEADERS | {"Content-Type": f"{self.media_type}; charset=utf-8"}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": pairs}


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None if the client left, which cancels it."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _ended(working)
        await _ended(leaving)


async def _disconnected(receive: Receive) -> None:
    """Comes back when the client has left; its request has been read already."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: "asyncio.Future[Any]") -> None:
    """Cancels what is not done, and waits until it has put its things away."""
    task.cancel()
    await asyncio.wait({task})
