"""One request after another to an endpoint, and when what came of it.

The clock starts when a request is due, before there is a connection: what a user waits for. So
under open load, where requests are due whether or not the endpoint keeps up, the time in which a
request could not be sent counts too.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import httpx

from pharos.core import EndpointError
from pharos.serve.bench.workload import Prompt
from pharos.serve.client import certificates, request_headers
from pharos.serve.wire import printable, read_object, refusal

Api = Literal["chat", "completions"]
PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Of one request, in seconds on the clock of this process: when it was due, sent, and over, and
    when each piece of text came. `num_prompt` and `num_output` are tokens as the endpoint counted
    them; where it does not tell, `is_counted` is false and each piece counts as one. A request
    that has an `error` has failed."""

    due_s: float
    sent_s: float
    end_s: float
    pieces_s: tuple[float, ...] = ()
    num_prompt: int = 0
    num_output: int = 0
    is_counted: bool = False
    error: str | None = None


class BenchClient:
    """An async context manager. `ignore_eos` asks the endpoint to write on until `max_tokens`
    (vLLM, llama.cpp and Pharos know the field)."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api: Api = "chat",
        ignore_eos: bool = True,
        timeout_s: float = 600.0,
    ) -> None:
        self.base_url = base_url
        self.model = model
        self.api: Api = api
        self.ignore_eos = ignore_eos
        self._client = httpx.AsyncClient(
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers=request_headers(base_url),
            verify=certificates(),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> "BenchClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def ask(self, prompt: Prompt, *, due_s: float | None = None) -> Timing:
        """Waits until the request is due, sends it, and reads its reply. What goes wrong is in the
        timing, and not raised."""
        due_s = time.perf_counter() if due_s is None else due_s
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        sent_s = time.perf_counter()
        reply = _Reply()
        error = None
        try:
            async for event in self._events(prompt):
                reply.read(event, time.perf_counter(), self.base_url)
            reply.check()
        except httpx.HTTPError as failure:
            error = type(failure).__name__
        except EndpointError as failure:
            error = str(failure)
        return Timing(
            due_s=due_s,
            sent_s=sent_s,
            end_s=time.perf_counter(),
            pieces_s=tuple(reply.pieces_s),
            num_prompt=reply.num_prompt or 0,
            num_output=len(reply.pieces_s) if reply.num_output is None else reply.num_output,
            is_counted=reply.num_output is not None,
            error=error,
        )

    async def _events(self, prompt: Prompt) -> AsyncIterator[str]:
        url = self.base_url + PATHS[self.api]
        async with self._client.stream("POST", url, json=self._body(prompt)) as response:
            if response.status_code != 200:
                body = await response.aread()
                raise refusal(response.status_code, body, model=self.model, base_url=self.base_url)
            async for line in _lines(response):
                if line.startswith(b"data:"):
                    yield line.removeprefix(b"data:").strip().decode(errors="replace")

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": prompt.max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.api == "chat":
            body["messages"] = [{"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = prompt.text
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body


class _Reply:
    """What the events of a stream add up to."""

    def __init__(self) -> None:
        self.pieces_s: list[float] = []
        self.num_prompt: int | None = None
        self.num_output: int | None = None
        self._is_finished = False

    def read(self, event: str, now_s: float, base_url: str) -> None:
        if event == "[DONE]":
            self._is_finished = True
            return
        chunk = read_object(event, base_url)
        if "error" in chunk:
            raise EndpointError(printable(json.dumps(chunk["error"])))
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("content") or delta.get("reasoning_content") or choice.get("text"):
                self.pieces_s.append(now_s)
            self._is_finished |= choice.get("finish_reason") is not None
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.num_prompt = usage.get("prompt_tokens")
            self.num_output = usage.get("completion_tokens")

    def check(self) -> None:
        if not self._is_finished:
            raise EndpointError("the stream ended before the reply was finished")


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Split at line feeds and nothing else: U+2028 may stand in a reply's text."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line
    yield rest
