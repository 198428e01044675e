"""What Prometheus reads, beside what vLLM means by it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pharos.core import SamplingParams
from pharos.serve.engine.request import Output, Request
from pharos.serve.engine.stats import EngineStats
from pharos.serve.http.config import HttpConfig
from pharos.serve.http.frontend import Frontend
from pharos.serve.http.metrics import Metrics
from pharos.serve.http.schemas import CompletionRequest
from pharos.serve.http.served import load_served

AGO_S = 100.0


class Broken:
    """An engine whose client has a mistake in it."""

    max_len = 100
    is_healthy = True

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        yield Output(request_id=request.id, num_generated=1)
        raise RuntimeError("a mistake")

    async def load_adapter(self, name: str, folder: Path) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    def stats(self) -> EngineStats:
        return EngineStats()


class HalfBroken(Broken):
    """It fails once the two choices of the prompt [5] are written."""

    def __init__(self) -> None:
        self.written = asyncio.Semaphore(0)

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        if request.prompt == [5]:
            yield Output(request_id=request.id, num_generated=3, finish_reason="stop")
            self.written.release()
            return
        for _ in range(2):
            await self.written.acquire()
        raise RuntimeError("a mistake")


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    told: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            told.setdefault(sample.name, []).append((sample.labels, sample.value))
    return told


def value(metrics: Metrics, name: str) -> float:
    ((_, found),) = samples(metrics)[f"pharos:{name}"]
    return found


ASKED = Request(id="1", prompt=[5] * 7, params=SamplingParams(max_tokens=40))


def output(**news: Any) -> Output:
    return Output(request_id="1", num_prompt=7, **news)


def test_times_begin_when_a_request_arrives_and_phases_when_the_engine_is_asked() -> None:
    metrics = Metrics(Broken(), "tiny")
    followed = metrics.follow(
        ASKED, time.monotonic() - AGO_S
    )  # so long were its tokens in the making
    followed.output(output(num_generated=1))
    followed.output(output(num_generated=3, finish_reason="length"))
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert value(metrics, f"{name}_sum") >= AGO_S
    for name in ("queue", "prefill", "decode", "inference"):
        assert value(metrics, f"request_{name}_time_seconds_sum") < AGO_S / 2
        assert value(metrics, f"request_{name}_time_seconds_count") == 1
    assert value(metrics, "generation_tokens_total") == 3
    assert value(metrics, "inter_token_latency_seconds_count") == 1


def test_a_prompt_is_counted_when_it_is_read() -> None:
    metrics = Metrics(Broken(), "tiny")
    followed = metrics.follow(ASKED, time.monotonic())
    assert value(metrics, "prompt_tokens_total") == 0
    followed.output(output(num_generated=1, num_cached=4))
    assert value(metrics, "prompt_tokens_total") == 7
    followed.output(output(num_generated=2, num_cached=4, finish_reason="stop"))
    assert value(metrics, "prompt_tokens_total") == 7
    assert value(metrics, "prompt_tokens_cached_total") == 4
    assert value(metrics, "request_prefill_kv_computed_tokens_sum") == 3
    assert value(metrics, "request_params_max_tokens_sum") == 40


def test_what_asks_for_no_text_has_no_most_tokens() -> None:
    metrics = Metrics(Broken(), "tiny")
    followed = metrics.follow(replace(ASKED, kind="embed"), time.monotonic())
    followed.output(output(finish_reason="stop"))
    assert value(metrics, "request_params_max_tokens_count") == 0
    assert value(metrics, "request_generation_tokens_count") == 0
    assert value(metrics, "request_prompt_tokens_sum") == 7


def test_a_prompt_is_as_long_as_the_longest_of_its_choices() -> None:
    metrics = Metrics(Broken(), "tiny")
    metrics.prompt_answered([output(num_generated=count) for count in (3, 9, 1)])
    assert value(metrics, "request_params_n_sum") == 3
    assert value(metrics, "request_params_n_count") == 1
    assert value(metrics, "request_max_num_generation_tokens_sum") == 9


def test_successes_are_told_from_the_beginning() -> None:
    metrics = Metrics(Broken(), "tiny")
    metrics.follow(ASKED, time.monotonic()).output(output(num_generated=1, finish_reason="stop"))
    told = samples(metrics)["pharos:request_success_total"]
    assert {labels["finished_reason"]: count for labels, count in told} == {"stop": 1, "length": 0}


def test_times_are_told_apart_up_to_minutes() -> None:
    told = samples(Metrics(Broken(), "tiny"))
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        bounds = [float(labels["le"]) for labels, _ in told[f"pharos:{name}_bucket"]]
        between = [bound for bound in bounds if 1.0 <= bound <= 640.0]
        assert all(next_ <= 2.5 * bound for bound, next_ in pairwise(between))
        assert between[-1] >= 480.0


def test_a_mistake_of_the_server_is_no_client_that_left(llama_folder: Path) -> None:
    metrics = metrics_of_failing(Broken(), [[5]], llama_folder)
    ((labels, count),) = samples(metrics)["pharos:request_failure_total"]
    assert (labels["reason"], count) == ("server_error", 2)
    assert value(metrics, "request_params_n_count") == 0


def test_a_prompt_that_was_answered_counts_beside_one_that_failed(llama_folder: Path) -> None:
    metrics = metrics_of_failing(HalfBroken(), [[5], [6]], llama_folder)
    ((labels, count),) = samples(metrics)["pharos:request_failure_total"]
    assert (labels["reason"], count) == ("server_error", 2)
    assert value(metrics, "request_params_n_count") == 1
    assert value(metrics, "request_max_num_generation_tokens_sum") == 3


def metrics_of_failing(engine: Broken, prompts: list[list[int]], folder: Path) -> Metrics:
    """After two choices of each prompt were asked for."""
    model = load_served(folder, name="tiny", max_len=100, template=None, tool_format=None)
    frontend = Frontend(engine, model, HttpConfig())
    body = CompletionRequest(model="tiny", prompt="x", n=2)
    job = frontend.write_job(body, prompts, prefix="cmpl", max_tokens=4)

    async def read() -> None:
        async for _ in frontend.outputs(job):
            pass

    with pytest.raises(RuntimeError):
        asyncio.run(read())
    return frontend.metrics
