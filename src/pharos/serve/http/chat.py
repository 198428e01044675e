"""`/v1/chat/completions`: conversations.

`turn_of` makes a job of a request; `news` are its outputs, read for calls of functions. Both are
what `/v1/responses` does too. A reply at once and a stream are two ways to tell the same news.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from pharos.serve.engine.request import Output, Token
from pharos.serve.http.chat_schemas import ChatRequest, template_messages
from pharos.serve.http.errors import unsupported
from pharos.serve.http.frontend import Frontend, Job
from pharos.serve.http.replies import DONE, Event, EventStream, Reply
from pharos.serve.http.telling import chat_logprobs, usage
from pharos.serve.http.tools import CallDelta, ToolUse, told_in_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The assistant's, as a client asked for it."""

    body: ChatRequest
    job: Job
    tools: ToolUse


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """Of choice number `index`: what is said and called, in order."""

    index: int
    deltas: list[str | CallDelta]
    output: Output

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self.output.tokens


def chat_router(frontend: Frontend) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest) -> Response:
        includes_usage = body.includes_usage
        turn = await asyncio.to_thread(turn_of, frontend, body, prefix="chatcmpl")
        if not body.stream:
            return Reply(_completion(frontend, turn))
        return EventStream(
            _chunks(frontend, turn, includes_usage=includes_usage),
            keep_alive_s=frontend.config.keep_alive_s,
            timeout_s=frontend.config.timeout_s,
            on_error=lambda error: [Event(error.body)],
        )

    return router


def turn_of(frontend: Frontend, body: ChatRequest, *, prefix: str) -> Turn:
    """Raises ApiError for what cannot be done."""
    tools = ToolUse(
        body.tools,
        body.tool_choice,
        parallel=body.parallel_tool_calls,
        format_=frontend.model.tool_format,
        opener_id=frontend.model.call_opener_id,
    )
    wanted = None if body.response_format is None else body.response_format.to_grammar()
    if wanted is not None and (tools.grammar is not None or tools.is_auto):
        raise unsupported(
            "response_format",
            "text that obeys a format has no calls in it; give tools, or tool_choice none",
        )
    job = frontend.write_job(
        body,
        [prompt_ids(frontend, body, tools)],
        prefix=prefix,
        max_tokens=body.asked_tokens(),
        logprobs=body.num_logprobs(),
        grammar=wanted or tools.grammar,
        skip_special=not tools.shows_special,
    )
    return Turn(body=body, job=job, tools=tools)


def prompt_ids(frontend: Frontend, body: ChatRequest, tools: ToolUse) -> list[int]:
    """The conversation, as the model's template writes it."""
    model = frontend.model
    messages = template_messages(body.messages)
    if not model.knows_tools:
        messages = told_in_text(messages, tools.prompt_tools)
    if body.documents is not None and not model.knows_documents:
        raise unsupported(
            "documents", "the chat template has no place for them; say it in a message"
        )
    text = model.render(
        messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        tools=tools.prompt_tools or None,
        documents=body.documents,
        variables=body.chat_template_kwargs,
    )
    return model.text_ids(text, add_special_tokens=False)


async def news(frontend: Frontend, turn: Turn) -> AsyncGenerator[News, None]:
    """What the choices say, as it comes; the last of each has a finish reason."""
    readers = [turn.tools.reader() for _ in turn.job.requests]
    async with aclosing(frontend.outputs(turn.job)) as outputs:
        async for index, output in outputs:
            deltas = list(readers[index].push(output.text)) if output.text else []
            if output.finish_reason is not None:
                deltas += readers[index].flush()
            yield News(index=index, deltas=deltas, output=output)


@dataclass(slots=True)
class Said:
    """What one choice has said so far."""

    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    last: Output | None = None

    def add(self, news: News) -> None:
        for delta in news.deltas:
            if isinstance(delta, str):
                self.text += delta
            elif delta.name is not None:
                function = {"name": delta.name, "arguments": delta.arguments}
                self.calls.append({"id": delta.id, "type": "function", "function": function})
            else:
                self.calls[delta.index]["function"]["arguments"] += delta.arguments
        self.tokens += news.tokens
        self.last = news.output

    def finish_reason(self, tools: ToolUse) -> str | None:
        """As OpenAI has it: a function that was named by the client ends with "stop"."""
        reason = None if self.last is None else self.last.finish_reason
        return "tool_calls" if self.calls and reason == "stop" and not tools.is_named else reason


async def said_by(frontend: Frontend, turn: Turn) -> list[Said]:
    """All that each choice says, in the end."""
    choices = [Said() for _ in turn.job.requests]
    async with aclosing(news(frontend, turn)) as coming:
        async for item in coming:
            choices[item.index].add(item)
    return choices


async def _completion(frontend: Frontend, turn: Turn) -> dict[str, Any]:
    choices = await said_by(frontend, turn)
    last = [said.last for said in choices if said.last is not None]
    return {
        **_head(turn, "chat.completion"),
        "choices": [_choice(frontend, turn, i, said) for i, said in enumerate(choices)],
        "usage": usage(last, turn.job.num_choices),
        **_prompt_ids(turn),
    }


def _choice(frontend: Frontend, turn: Turn, index: int, said: Said) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
    if said.calls:
        message |= {"content": said.text or None, "tool_calls": said.calls}
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(frontend, turn, said.tokens),
        "finish_reason": said.finish_reason(turn.tools),
        "stop_reason": None if said.last is None else said.last.stopped_by,
        **_ids(turn, said.tokens),
    }


async def _chunks(
    frontend: Frontend, turn: Turn, *, includes_usage: bool
) -> AsyncGenerator[Event, None]:
    choices = [Said() for _ in turn.job.requests]
    head = _head(turn, "chat.completion.chunk") | ({"usage": None} if includes_usage else {})
    async with aclosing(news(frontend, turn)) as coming:
        async for item in coming:
            said = choices[item.index]
            if said.last is None:
                first = {"role": "assistant", "content": ""}
                yield Event(head | {"choices": [_delta(item.index, first)], **_prompt_ids(turn)})
            said.add(item)
            for choice in _deltas(frontend, turn, item, said):
                yield Event(head | {"choices": [choice]})
    if includes_usage:
        last = [said.last for said in choices if said.last is not None]
        yield Event(head | {"choices": [], "usage": usage(last, turn.job.num_choices)})
    yield DONE


def _deltas(frontend: Frontend, turn: Turn, item: News, said: Said) -> list[dict[str, Any]]:
    """What is said comes first, with the log-probabilities of all; then the calls, then the end."""
    text = "".join(delta for delta in item.deltas if isinstance(delta, str))
    choices = []
    if text or (item.tokens and (turn.body.logprobs or turn.body.return_token_ids)):
        more = {"logprobs": _logprobs(frontend, turn, item.tokens), **_ids(turn, item.tokens)}
        choices.append(_delta(item.index, {"content": text}) | more)
    calls = [_call(delta) for delta in item.deltas if isinstance(delta, CallDelta)]
    choices += [_delta(item.index, {"tool_calls": [call]}) for call in calls]
    if item.output.finish_reason is not None:
        end = {"finish_reason": said.finish_reason(turn.tools)}
        choices.append(_delta(item.index, {}) | end | {"stop_reason": item.output.stopped_by})
    return choices


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _call(delta: CallDelta) -> dict[str, Any]:
    if delta.name is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _logprobs(
    frontend: Frontend, turn: Turn, tokens: "list[Token] | tuple[Token, ...]"
) -> dict[str, Any] | None:
    if not turn.body.logprobs:
        return None
    return {"content": chat_logprobs(frontend.model, tokens), "refusal": None}


def _ids(turn: Turn, tokens: "list[Token] | tuple[Token, ...]") -> dict[str, Any]:
    return {"token_ids": [token.id for token in tokens]} if turn.body.return_token_ids else {}


def _prompt_ids(turn: Turn) -> dict[str, Any]:
    if not turn.body.return_token_ids:
        return {}
    return {"prompt_token_ids": list(turn.job.requests[0].prompt)}


def _head(turn: Turn, kind: str) -> dict[str, Any]:
    job = turn.job
    return {"id": job.id, "object": kind, "created": job.created, "model": job.model}
