import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import Message

from pharos.serve.http.errors import ApiError
from pharos.serve.http.replies import DONE, KEEP_ALIVE, Event, EventStream, Reply

Events = AsyncGenerator[Event, None]


class Connection:
    """What an ASGI server gives: messages that were sent, and a client that may leave."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.on_send: Callable[[bytes], None] = lambda body: None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.on_send(message.get("body", b""))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def streamed(events: Events, connection: Connection, *, keep_alive_s: float = 60) -> None:
    stream = EventStream(
        events,
        keep_alive_s=keep_alive_s,
        timeout_s=60,
        on_error=lambda error: [Event(error.body), DONE],
    )
    await stream({"type": "http"}, connection.receive, connection.send)


def test_events_are_framed_as_the_standard_has_it() -> None:
    async def main() -> Connection:
        async def events() -> Events:
            yield Event({"text": "a\nb\u2028☀"})
            yield Event({"n": 1}, "named")
            yield DONE

        connection = Connection()
        await streamed(events(), connection)
        return connection

    connection = asyncio.run(main())
    assert (
        connection.body
        == (
            'data: {"text":"a\\nb\u2028☀"}\n\nevent: named\ndata: {"n":1}\n\ndata: [DONE]\n\n'
        ).encode()
    )
    assert connection.status == 200
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_what_fails_before_the_first_event_is_an_http_error() -> None:
    async def main() -> Connection:
        async def events() -> Events:
            raise ApiError("no room", status=429, retry_after_s=3)
            yield DONE

        connection = Connection()
        await streamed(events(), connection)
        return connection

    connection = asyncio.run(main())
    assert connection.status == 429
    assert (b"retry-after", b"3") in connection.sent[0]["headers"]
    assert json.loads(connection.body)["error"]["message"] == "no room"


def test_what_fails_later_is_told_in_the_stream() -> None:
    async def main() -> Connection:
        async def events() -> Events:
            yield Event("first")
            raise ApiError("it broke", status=500)

        connection = Connection()
        await streamed(events(), connection)
        return connection

    connection = asyncio.run(main())
    assert connection.status == 200
    first, error, done = connection.body.decode().split("\n\n")[:-1]
    assert (first, done) == ("data: first", "data: [DONE]")
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error"


def test_a_silent_stream_sends_comments() -> None:
    async def main() -> Connection:
        connection, is_alive = Connection(), asyncio.Event()

        async def events() -> Events:
            await is_alive.wait()
            yield DONE

        connection.on_send = lambda body: is_alive.set() if body == KEEP_ALIVE else None
        await streamed(events(), connection, keep_alive_s=0.001)
        return connection

    assert asyncio.run(main()).body.startswith(KEEP_ALIVE)


def test_a_client_that_leaves_ends_a_stream_that_has_not_begun() -> None:
    async def main() -> tuple[bool, Connection]:
        connection, is_closed = Connection(), False

        async def events() -> Events:
            nonlocal is_closed
            try:
                connection.left.set()
                await asyncio.Event().wait()
                yield DONE
            finally:
                is_closed = True

        await streamed(events(), connection)
        return is_closed, connection

    is_closed, connection = asyncio.run(main())
    assert is_closed
    assert connection.sent == []


def test_a_client_that_does_not_read_counts_as_one_that_left() -> None:
    async def main() -> bool:
        is_closed = False

        async def events() -> Events:
            nonlocal is_closed
            try:
                while True:
                    yield Event("more")
            finally:
                is_closed = True

        async def full(message: Message) -> None:
            await asyncio.Event().wait()

        stream = EventStream(events(), keep_alive_s=60, timeout_s=0.01, on_error=lambda error: [])
        await stream({"type": "http"}, Connection().receive, full)
        return is_closed

    assert asyncio.run(main())


def test_a_client_that_leaves_ends_work_that_is_told_at_once() -> None:
    async def main() -> tuple[bool, Connection]:
        connection, is_cancelled = Connection(), False

        async def work() -> dict[str, Any]:
            nonlocal is_cancelled
            try:
                connection.left.set()
                await asyncio.Event().wait()
            finally:
                is_cancelled = True
            return {}

        await Reply(work())({"type": "http"}, connection.receive, connection.send)
        return is_cancelled, connection

    is_cancelled, connection = asyncio.run(main())
    assert is_cancelled
    assert connection.sent == []


def test_a_reply_is_json_whatever_stands_in_it() -> None:
    async def main() -> Connection:
        async def work() -> dict[str, Any]:
            return {"text": "half a pair: \ud83d"}

        connection = Connection()
        await Reply(work())({"type": "http"}, connection.receive, connection.send)
        return connection

    assert json.loads(asyncio.run(main()).body) == {"text": "half a pair: ?"}
