"""Bodies that come slowly, or not to their end."""

import asyncio
import json
from collections.abc import Iterator

from starlette.types import Message, Receive, Scope, Send

from pharos.serve.http.config import HttpConfig
from pharos.serve.http.gate import Gate

SCOPE: Scope = {"type": "http", "path": "/", "headers": [(b"host", b"localhost")]}
HALF: Message = {"type": "http.request", "body": b"{", "more_body": True}


def passed(messages: Iterator[Message], *, timeout_s: float) -> tuple[list[Message], bool]:
    """What is sent to a client that says this and then nothing, and whether it got through."""
    sent: list[Message] = []
    is_through = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal is_through
        is_through = True

    async def receive() -> Message:
        for message in messages:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    gate = Gate(app, config=HttpConfig(timeout_s=timeout_s))
    asyncio.run(gate(SCOPE, receive, send))
    return sent, is_through


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    sent, is_through = passed(iter([HALF]), timeout_s=0.01)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "timeout"
    assert not is_through


def test_half_a_body_of_a_client_that_left_is_not_read() -> None:
    left: Message = {"type": "http.disconnect"}
    assert passed(iter([HALF, left]), timeout_s=60) == ([], False)
