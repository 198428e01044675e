"""`/v1/completions`: texts that are gone on with."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from pharos.serve.engine.request import Output, Token
from pharos.serve.http.errors import ApiError, unsupported
from pharos.serve.http.frontend import Frontend, Job
from pharos.serve.http.replies import DONE, Event, EventStream, Reply
from pharos.serve.http.schemas import CompletionRequest
from pharos.serve.http.telling import CompletionLogprobs, usage


def completions_router(frontend: Frontend) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(body: CompletionRequest) -> Response:
        includes_usage = body.includes_usage
        task = await asyncio.to_thread(_Task, frontend, body)
        if not body.stream:
            return Reply(task.completion())
        return EventStream(
            task.chunks(includes_usage=includes_usage),
            keep_alive_s=frontend.config.keep_alive_s,
            timeout_s=frontend.config.timeout_s,
            on_error=lambda error: [Event(error.body)],
        )

    return router


class _Task:
    """One request. Raises ApiError for what cannot be done."""

    def __init__(self, frontend: Frontend, body: CompletionRequest) -> None:
        if body.echo and body.logprobs is not None:
            raise unsupported("echo", "with logprobs: those of a prompt are not computed")
        self._frontend = frontend
        self._body = body
        self._prompts = [_ids(frontend, body, prompt) for prompt in body.prompts()]
        if not self._prompts:
            raise ApiError("prompt is an empty list; give at least one text", param="prompt")
        self._job: Job = frontend.write_job(
            body,
            self._prompts,
            prefix="cmpl",
            max_tokens=body.max_tokens,
            logprobs=body.logprobs,
            grammar=None if body.response_format is None else body.response_format.to_grammar(),
        )
        self._logprobs = [CompletionLogprobs(frontend.model, offset=0) for _ in self._job.requests]

    async def completion(self) -> dict[str, Any]:
        texts = [self._echoed(index) for index in range(len(self._job.requests))]
        tokens: list[list[Token]] = [[] for _ in texts]
        last: dict[int, Output] = {}
        async with aclosing(self._frontend.outputs(self._job)) as outputs:
            async for index, output in outputs:
                texts[index] += output.text
                tokens[index] += output.tokens
                last[index] = output
        choices = [
            self._choice(index, texts[index], tokens[index], last[index])
            for index in range(len(texts))
        ]
        return self._head() | {"choices": choices, "usage": self._usage(last)}

    async def chunks(self, *, includes_usage: bool) -> AsyncGenerator[Event, None]:
        head = self._head() | ({"usage": None} if includes_usage else {})
        last: dict[int, Output] = {}
        async with aclosing(self._frontend.outputs(self._job)) as outputs:
            async for index, output in outputs:
                text = output.text if index in last else self._echoed(index) + output.text
                choice = self._choice(index, text, output.tokens, output)
                last[index] = output
                yield Event(head | {"choices": [choice]})
        if includes_usage:
            yield Event(head | {"choices": [], "usage": self._usage(last)})
        yield DONE

    def _choice(
        self, index: int, text: str, tokens: "list[Token] | tuple[Token, ...]", output: Output
    ) -> dict[str, Any]:
        wants_logprobs = self._body.logprobs is not None
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._logprobs[index].of(tokens) if wants_logprobs else None,
            "finish_reason": output.finish_reason,
            "stop_reason": output.stopped_by,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = [token.id for token in tokens]
            choice["prompt_token_ids"] = list(self._job.requests[index].prompt)
        return choice

    def _echoed(self, index: int) -> str:
        """The prompt, if the reply is to begin with it."""
        if not self._body.echo:
            return ""
        prompt = self._body.prompts()[index // self._body.n]
        return prompt if isinstance(prompt, str) else self._frontend.model.tokenizer.decode(prompt)

    def _usage(self, last: dict[int, Output]) -> dict[str, Any]:
        return usage([last[index] for index in sorted(last)], self._job.num_choices)

    def _head(self) -> dict[str, Any]:
        job = self._job
        return {
            "id": job.id,
            "object": "text_completion",
            "created": job.created,
            "model": job.model,
        }


def _ids(frontend: Frontend, body: CompletionRequest, prompt: str | list[int]) -> list[int]:
    return prompt_ids(frontend, prompt, add_special_tokens=body.add_special_tokens)


def prompt_ids(
    frontend: Frontend, prompt: str | list[int], *, add_special_tokens: bool
) -> list[int]:
    """The tokens of a text, or those that were given."""
    if isinstance(prompt, str):
        return frontend.model.text_ids(prompt, add_special_tokens=add_special_tokens)
    most = frontend.model.tokenizer.vocab_size
    if not prompt or not 0 <= min(prompt) <= max(prompt) < most:
        raise ApiError(
            f"a prompt of tokens has one or more ids from 0 to {most - 1}", param="prompt"
        )
    return prompt
