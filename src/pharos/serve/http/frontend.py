"""From what a client asks to what the engine is asked, and its outputs back.

A client's request becomes a `Job`: one engine request for each choice. All of a job's outputs come
through `Frontend.outputs`, which admits it, bounds its time, measures and logs it, and makes an
`ApiError` of whatever goes wrong.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from pharos.core import SamplingParams
from pharos.serve.engine.request import Grammar, Kind, Output, Request
from pharos.serve.http.admission import Admission
from pharos.serve.http.config import HttpConfig
from pharos.serve.http.contract import Engine
from pharos.serve.http.errors import ApiError, engine_failed, too_long
from pharos.serve.http.merging import merged
from pharos.serve.http.metrics import Metrics
from pharos.serve.http.parameters import Sampling
from pharos.serve.http.schemas import EmbeddingRequest, RerankRequest
from pharos.serve.http.served import ServedModel

logger = logging.getLogger("pharos.serve")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """`model` is the name that the client gave. Each `num_choices` requests have one prompt. It
    arrived at `arrived_s`, by the monotonic clock."""

    id: str
    model: str
    requests: list[Request]
    arrived_s: float
    num_choices: int = 1
    user: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def kind(self) -> Kind:
        return self.requests[0].kind

    def choices_of(self, outputs: Mapping[int, Output]) -> Iterator[list[Output]]:
        """Of each prompt whose choices are all there, by their numbers in the job."""
        for first in range(0, len(self.requests), self.num_choices):
            choices = range(first, first + self.num_choices)
            if all(number in outputs for number in choices):
                yield [outputs[number] for number in choices]


class Frontend:
    """What the endpoints share."""

    def __init__(self, engine: Engine, model: ServedModel, config: HttpConfig) -> None:
        self.engine = engine
        self.model = model
        self.config = config
        self.metrics = Metrics(engine, model.name)
        self.admission = Admission(config.max_pending)

    def write_job(
        self,
        body: Sampling,
        prompts: Sequence[Sequence[int]],
        *,
        prefix: str,
        max_tokens: int | None,
        logprobs: int | None = None,
        grammar: Grammar | None = None,
        skip_special: bool = True,
    ) -> Job:
        """The job to write `body.n` texts for each prompt. Raises ApiError for what cannot be."""
        self._check_choices(body.n, len(prompts))
        job_id = f"{prefix}-{secrets.token_hex(12)}"
        seed = body.first_seed()
        requests = []
        for prompt in prompts:
            prompt = _truncated(prompt, body.truncate_prompt_tokens)
            params = body.sampling_params(self._max_tokens(len(prompt), max_tokens), logprobs)
            self._check_ids(params)
            request = Request(
                id="",
                prompt=prompt,
                params=params,
                eos_ids=frozenset(self.model.tokenizer.eos_ids),
                priority=body.priority,
                adapter=self.model.adapter_of(body.model),
                grammar=_one_grammar(body, grammar),
                salt=body.cache_salt,
                skip_special=skip_special and body.skip_special_tokens,
            )
            requests += [replace(request, seed=seed + choice) for choice in range(body.n)]
        return _job(job_id, body, requests, num_choices=body.n)

    def embed_job(
        self, body: EmbeddingRequest | RerankRequest, prompts: Sequence[Sequence[int]]
    ) -> Job:
        """The job to make a vector of each prompt."""
        job_id = f"embd-{secrets.token_hex(12)}"
        kind: Kind = "embed"
        requests = []
        for prompt in prompts:
            prompt = _truncated(prompt, body.truncate_prompt_tokens)
            self._max_tokens(len(prompt), None)
            adapter = self.model.adapter_of(body.model)
            requests.append(
                Request(id="", prompt=prompt, kind=kind, priority=body.priority, adapter=adapter)
            )
        return _job(job_id, body, requests, num_choices=1)

    async def outputs(self, job: Job) -> AsyncGenerator[tuple[int, Output], None]:
        """The outputs of all choices, as they come, each with its number."""
        started = time.monotonic()
        ended: dict[int, Output] = {}
        outcome = "client_gone"
        try:
            with self.admission.admitted(len(job.requests)):
                async with aclosing(self._in_time(job)) as news:
                    async for number, output in news:
                        if output.finish_reason is not None:
                            ended[number] = output
                        outcome = "done" if len(ended) == len(job.requests) else outcome
                        yield number, output
        except ApiError as error:
            outcome = error.code or "refused"
            raise
        except Exception:
            outcome = "server_error"
            raise
        finally:
            if outcome != "done":
                self.metrics.failed(outcome, len(job.requests) - len(ended))
            if job.kind == "generate":
                for choices in job.choices_of(ended):
                    self.metrics.prompt_answered(choices)
            _log(job, ended.values(), outcome, time.monotonic() - started)

    async def vectors(self, job: Job) -> tuple[list[tuple[float, ...]], int]:
        """The vector of each request, in order, and how many tokens were read."""
        async with aclosing(self.outputs(job)) as news:
            outputs = {number: output async for number, output in news}
        vectors = [outputs[number].vector or () for number in range(len(job.requests))]
        return vectors, sum(output.num_prompt for output in outputs.values())

    async def _in_time(self, job: Job) -> AsyncGenerator[tuple[int, Output], None]:
        deadline = asyncio.get_running_loop().time() + self.config.timeout_s
        async with aclosing(merged(self._each(job))) as news:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await anext(news, None)
                except TimeoutError as error:
                    raise ApiError(
                        f"the request took longer than {self.config.timeout_s:g} s, the limit of "
                        "this server; ask for fewer tokens",
                        status=504,
                        code="timeout",
                    ) from error
                if item is None:
                    return
                yield item

    def _each(self, job: Job) -> list[AsyncGenerator[Output, None]]:
        return [self._of_one(request, job.arrived_s) for request in job.requests]

    async def _of_one(self, request: Request, arrived_s: float) -> AsyncGenerator[Output, None]:
        followed = self.metrics.follow(request, arrived_s)
        async with aclosing(self.engine.generate(request)) as outputs:
            while (output := await _next(outputs)) is not None:
                if output.finish_reason == "error":
                    reason = output.error or "the engine does not say why"
                    raise engine_failed(reason, is_running=self.engine.is_healthy)
                followed.output(output)
                yield output

    def _max_tokens(self, num_prompt: int, asked: int | None) -> int:
        """How many tokens may be written after a prompt."""
        room, limit = self.model.max_len - num_prompt, self.config.max_output_tokens
        if asked is not None and limit is not None and asked > limit:
            raise ApiError(
                f"max_tokens is {asked}; this server writes at most {limit}", param="max_tokens"
            )
        if room < max(asked or 0, 1):
            raise too_long(num_prompt, asked or 0, self.model.max_len)
        return asked or min(room, limit or room)

    def _check_choices(self, num_choices: int, num_prompts: int) -> None:
        if num_choices * num_prompts > self.config.max_choices:
            raise ApiError(
                f"n is {num_choices} for each of {num_prompts} prompts; this server writes at most "
                f"{self.config.max_choices} texts for a request",
                param="n",
            )

    def _check_ids(self, params: SamplingParams) -> None:
        most = self.model.tokenizer.vocab_size
        for name in ("logit_bias", "stop_token_ids"):
            for id_ in getattr(params, name):
                if not 0 <= id_ < most:
                    raise ApiError(
                        f"{name} names the token {id_}; ids go from 0 to {most - 1}", param=name
                    )


async def _next(outputs: AsyncGenerator[Output, None]) -> Output | None:
    """Raises ApiError for a request that the engine refuses."""
    try:
        return await anext(outputs, None)
    except ValueError as error:
        raise ApiError(str(error)) from error


def _one_grammar(body: Sampling, grammar: Grammar | None) -> Grammar | None:
    """That of the request; it can obey one."""
    if body.structured_outputs is None:
        return grammar
    if grammar is not None:
        raise ApiError(
            "structured_outputs stands beside response_format or tool_choice, which constrain the "
            "text too; give one of them",
            param="structured_outputs",
        )
    return body.structured_outputs.to_grammar()


def _truncated(prompt: Sequence[int], limit: int | None) -> Sequence[int]:
    """The last tokens, if there are more than may be."""
    return prompt if limit is None else prompt[-limit:]


def _job(
    job_id: str,
    body: Sampling | EmbeddingRequest | RerankRequest,
    requests: list[Request],
    *,
    num_choices: int,
) -> Job:
    return Job(
        id=job_id,
        model=body.model,
        requests=[replace(request, id=f"{job_id}-{i}") for i, request in enumerate(requests)],
        arrived_s=body.arrived_s,
        num_choices=num_choices,
        user=body.user,
    )


def _log(job: Job, ended: Collection[Output], outcome: str, seconds: float) -> None:
    logger.info(
        "%s model=%s user=%s prompt_tokens=%d completion_tokens=%d outcome=%s seconds=%.3f",
        job.id,
        job.model,
        None if job.user is None else ascii(job.user[:80]),
        sum(len(request.prompt) for request in job.requests[:: job.num_choices]),
        sum(output.num_generated for output in ended),
        outcome,
        seconds,
    )
