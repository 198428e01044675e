"""What Prometheus reads: vLLM's metrics with our prefix, and the same meanings.

Times are taken here, by one clock, as outputs arrive: the first begins when a request has arrived,
before it is read into tokens. What the engine alone knows (how long a request waited, how full its
cache is) it tells. A request is one choice: `n` of them are `n`; but what was asked for `n` is
counted once a prompt. Those that failed have counts and no times; to vLLM, one whose client left is
a success that ended with `abort`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from pharos.serve.engine.request import Output, Request
from pharos.serve.http.contract import Engine
from pharos.serve.http.engine_metrics import LABELS, EngineCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 2560.0),
)
BETWEEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
WHOLE = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Seconds: a token takes milliseconds on a GPU, and a long answer minutes on a CPU."""
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
CHOICES = (1, 2, 5, 10, 20)


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model_name": model, "engine": "0"}
        self._registry.register(EngineCollector(engine, self._labels))
        count, seconds = self._counter, self._histogram
        self.prompt_tokens = count("prompt_tokens", "Prompt tokens read.")
        self.cached_tokens = count("prompt_tokens_cached", "Prompt tokens found in the cache.")
        self.generation_tokens = count("generation_tokens", "Tokens generated.")
        self._success = self._counter_by("request_success", "Requests answered.", "finished_reason")
        for reason in ("stop", "length"):  # also before the first: a rate begins with a number
            self._success.labels(**self._labels, finished_reason=reason)
        self._failure = self._counter_by("request_failure", "Requests that failed.", "reason")
        self._first_token = seconds("time_to_first_token_seconds", FIRST)
        self._inter_token = seconds("inter_token_latency_seconds", BETWEEN)
        self._per_token = seconds("request_time_per_output_token_seconds", BETWEEN)
        self._end_to_end = seconds("e2e_request_latency_seconds", WHOLE)
        self._queue = seconds("request_queue_time_seconds", WHOLE)
        self._prefill = seconds("request_prefill_time_seconds", WHOLE)
        self._decode = seconds("request_decode_time_seconds", WHOLE)
        self._inference = seconds("request_inference_time_seconds", WHOLE)
        self._num_prompt = seconds("request_prompt_tokens", TOKENS)
        self._num_computed = seconds("request_prefill_kv_computed_tokens", TOKENS)
        self._num_generated = seconds("request_generation_tokens", TOKENS)
        self._longest = seconds("request_max_num_generation_tokens", TOKENS)
        self._max_tokens = seconds("request_params_max_tokens", TOKENS)
        self._num_choices = seconds("request_params_n", CHOICES)

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self._registry)

    def follow(self, request: Request, arrived_s: float) -> "Followed":
        """To be told of each output of a request that the engine is asked now, those of failures
        excepted."""
        return Followed(self, request, arrived_s)

    def prompt_answered(self, choices: Sequence[Output]) -> None:
        """With all that was asked for: the last outputs of each."""
        self._num_choices.observe(len(choices))
        self._longest.observe(max(choice.num_generated for choice in choices))

    def failed(self, reason: str, count: int) -> None:
        """So many of a job's requests were not answered."""
        self._failure.labels(**self._labels, reason=reason).inc(count)

    def token(self, seconds: float, num_tokens: int, *, is_first: bool) -> None:
        """After `seconds`, so many tokens came at once."""
        self.generation_tokens.inc(num_tokens)
        (self._first_token if is_first else self._inter_token).observe(seconds)

    def read(self, output: Output) -> None:
        """The first output has come, so the prompt is read."""
        self.prompt_tokens.inc(output.num_prompt)
        self.cached_tokens.inc(output.num_cached)

    def answered(self, request: Request, times: "Times", output: Output) -> None:
        assert output.finish_reason is not None
        self._success.labels(**self._labels, finished_reason=output.finish_reason).inc()
        self._num_prompt.observe(output.num_prompt)
        self._num_computed.observe(output.num_prompt - output.num_cached)
        if request.kind == "generate":
            self._max_tokens.observe(request.params.max_tokens)
        self._end_to_end.observe(times.end_to_end)
        self._queue.observe(times.queue)
        started = times.asked + times.queue
        self._inference.observe(times.end_to_end - started)
        if times.num_generated:
            self._num_generated.observe(times.num_generated)
            self._prefill.observe(times.first - started)
            self._decode.observe(times.end_to_end - times.first)
        if times.num_generated > 1:
            self._per_token.observe((times.end_to_end - times.first) / (times.num_generated - 1))

    def _counter(self, name: str, help_: str) -> Counter:
        return self._counter_by(name, help_).labels(**self._labels)

    def _counter_by(self, name: str, help_: str, *more: str) -> Counter:
        return Counter(f"pharos:{name}", help_, (*LABELS, *more), registry=self._registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        help_ = name.replace("_", " ").capitalize() + "."
        histogram = Histogram(
            f"pharos:{name}", help_, LABELS, buckets=buckets, registry=self._registry
        )
        return histogram.labels(**self._labels)


@dataclass(slots=True)
class Times:
    """Seconds since a request arrived; `queue` are those since the engine was `asked`."""

    asked: float = 0.0
    queue: float = 0.0
    first: float = 0.0
    end_to_end: float = 0.0
    num_generated: int = 0


@dataclass(slots=True)
class Followed:
    """One request on its way through the engine."""

    metrics: Metrics
    request: Request
    arrived_s: float
    times: Times = field(default_factory=Times)
    last: float = 0.0
    is_read: bool = False

    def __post_init__(self) -> None:
        self.times.asked = time.monotonic() - self.arrived_s

    def output(self, output: Output) -> None:
        now = time.monotonic() - self.arrived_s
        if not self.is_read:
            self.metrics.read(output)
            self.is_read = True
        is_first = not self.times.num_generated
        if num_new := output.num_generated - self.times.num_generated:
            self.metrics.token(now - self.last, num_new, is_first=is_first)
            self.times.first = now if is_first else self.times.first
            self.times.num_generated, self.last = output.num_generated, now
        self.times.queue = output.queue_s
        if output.finish_reason is not None:
            self.times.end_to_end = now
            self.metrics.answered(self.request, self.times, output)
