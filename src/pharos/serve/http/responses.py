"""`/v1/responses`: the same conversations, told as items.

A response has an `output`: a message, then calls, each an item with a number. A stream tells of
each item when it begins, what is added to it, and when it is done; every event has the next
`sequence_number`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from pharos.serve.engine.request import Output, Token
from pharos.serve.http.chat import Turn, news, turn_of
from pharos.serve.http.errors import ApiError
from pharos.serve.http.frontend import Frontend
from pharos.serve.http.replies import Event, EventStream, Reply
from pharos.serve.http.responses_schemas import ResponsesRequest
from pharos.serve.http.telling import chat_logprobs, usage
from pharos.serve.http.tools import CallDelta


def responses_router(frontend: Frontend) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/responses")
    async def responses(body: ResponsesRequest) -> Response:
        turn = await asyncio.to_thread(turn_of, frontend, body.to_chat(), prefix="resp")
        writing = _Writing(frontend, body, turn)
        if not body.stream:
            return Reply(writing.whole())
        return EventStream(
            writing.events(),
            keep_alive_s=frontend.config.keep_alive_s,
            timeout_s=frontend.config.timeout_s,
            on_error=writing.failed,
        )

    return router


class _Writing:
    """A response while it is written. `_items` are those of the output so far."""

    def __init__(self, frontend: Frontend, body: ResponsesRequest, turn: Turn) -> None:
        self._frontend = frontend
        self._body = body
        self._turn = turn
        self._items: list[dict[str, Any]] = []
        self._tokens: list[Token] = []
        self._last: Output | None = None
        self._num_events = 0

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._response()

    async def events(self) -> AsyncGenerator[Event, None]:
        async with aclosing(news(self._frontend, self._turn)) as coming:
            async for item in coming:
                if self._last is None:
                    yield self._event("response.created", response=self._response())
                    yield self._event("response.in_progress", response=self._response())
                self._last = item.output
                for event in self._said(item.deltas, item.tokens):
                    yield event
        for event in self._done():
            yield event
        kind = "completed" if self._status == "completed" else "incomplete"
        yield self._event(f"response.{kind}", response=self._response())

    def failed(self, error: ApiError) -> list[Event]:
        told = {"code": "server_error", "message": error.message}
        response = self._response() | {"status": "failed", "error": told}
        return [self._event("response.failed", response=response)]

    def _said(self, deltas: Sequence[str | CallDelta], tokens: Sequence[Token]) -> Iterator[Event]:
        """Of the tokens of an output, the log-probabilities go with its first piece of text."""
        untold = list(tokens)
        self._tokens += tokens
        for delta in deltas:
            if isinstance(delta, CallDelta):
                yield from self._called(delta)
                continue
            if not self._items or self._items[-1]["type"] != "message":
                yield from self._begin_message()
            self._items[-1]["content"][0]["text"] += delta
            more = {"delta": delta, "logprobs": self._logprobs(untold)}
            yield self._event("response.output_text.delta", **self._at_text(), **more)
            untold = []

    def _called(self, delta: CallDelta) -> Iterator[Event]:
        if delta.name is not None:
            yield from self._end_item()
            item = {
                "type": "function_call",
                "id": f"fc_{secrets.token_hex(12)}",
                "call_id": delta.id,
                "name": delta.name,
                "arguments": "",
                "status": "in_progress",
            }
            yield from self._begin(item)
        if delta.arguments:
            self._items[-1]["arguments"] += delta.arguments
            kind = "response.function_call_arguments.delta"
            yield self._event(kind, **self._at(), delta=delta.arguments)

    def _begin_message(self) -> Iterator[Event]:
        yield from self._end_item()
        item = {
            "type": "message",
            "id": f"msg_{secrets.token_hex(12)}",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        yield from self._begin(item)
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
        self._items[-1]["content"].append(part)
        yield self._event("response.content_part.added", **self._at_text(), part=dict(part))

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        self._items.append(item)
        number = len(self._items) - 1
        yield self._event("response.output_item.added", output_index=number, item=_copied(item))

    def _done(self) -> Iterator[Event]:
        """The end of the last item; a response without any text has an empty message."""
        if not self._items:
            yield from self._begin_message()
        yield from self._end_item(status=self._status)

    def _end_item(self, status: str = "completed") -> Iterator[Event]:
        if not self._items:
            return
        item = self._items[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            logprobs = self._logprobs(self._tokens)
            part |= {"logprobs": logprobs} if self._turn.body.logprobs else {}
            text = {"text": part["text"], "logprobs": logprobs}
            yield self._event("response.output_text.done", **self._at_text(), **text)
            yield self._event("response.content_part.done", **self._at_text(), part=dict(part))
        else:
            told = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **self._at(), **told)
        number = len(self._items) - 1
        yield self._event("response.output_item.done", output_index=number, item=_copied(item))

    def _event(self, kind: str, **data: Any) -> Event:
        self._num_events += 1
        return Event({"type": kind, "sequence_number": self._num_events - 1} | data, kind)

    def _at(self) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _at_text(self) -> dict[str, Any]:
        return self._at() | {"content_index": 0}

    def _logprobs(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        return chat_logprobs(self._frontend.model, tokens) if self._turn.body.logprobs else []

    @property
    def _status(self) -> str:
        reason = None if self._last is None else self._last.finish_reason
        if reason is None:
            return "in_progress"
        return "incomplete" if reason == "length" else "completed"

    def _response(self) -> dict[str, Any]:
        """As it stands now."""
        body, status = self._body, self._status
        is_cut = status == "incomplete"
        return {
            "id": self._turn.job.id,
            "object": "response",
            "created_at": self._turn.job.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "model": self._turn.job.model,
            "output": [_copied(item) for item in self._items],
            "usage": None if status == "in_progress" else self._usage(),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "store": False,
            "temperature": self._turn.job.requests[0].params.temperature,
            "top_p": self._turn.job.requests[0].params.top_p,
            "top_logprobs": body.top_logprobs,
            "text": body.text.model_dump(by_alias=True, exclude_none=True),
            "tool_choice": _as_given(body.tool_choice),
            "tools": [tool.model_dump(exclude_unset=True) | _strict(tool) for tool in body.tools],
            "truncation": "disabled",
            "user": body.user,
        }

    def _usage(self) -> dict[str, Any]:
        assert self._last is not None
        told = usage([self._last], 1)
        return {
            "input_tokens": told["prompt_tokens"],
            "input_tokens_details": told["prompt_tokens_details"],
            "output_tokens": told["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": told["total_tokens"],
        }


def _as_given(choice: Any) -> Any:
    return "auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump()


def _strict(tool: Any) -> dict[str, Any]:
    return {"strict": bool(tool.strict), "parameters": tool.parameters}


def _copied(item: dict[str, Any]) -> dict[str, Any]:
    """As it stands now: an item goes on changing after it was told."""
    content = item.get("content")
    return item | ({} if content is None else {"content": [dict(part) for part in content]})
