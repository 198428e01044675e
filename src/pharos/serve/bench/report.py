"""What was measured, in the field's figures.

TTFT   time to the first token, from when the request was due
TPOT   time per output token after the first: (end - first) / (tokens - 1), of each request
ITL    inter-token latency: the gaps between the pieces of all requests. A piece may be several
       tokens (drafts that were accepted, say): then TPOT is the figure to compare
E2E    from when a request was due to its end
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pharos.serve.bench.client import Timing
from pharos.serve.bench.saturation import Pace, pace_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """In milliseconds."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Distribution | None":
        """None of nothing."""
        values = sorted(1000.0 * value for value in seconds)
        if not values:
            return None
        return cls(
            mean=sum(values) / len(values),
            p50=_percentile(values, 0.50),
            p95=_percentile(values, 0.95),
            p99=_percentile(values, 0.99),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Of one level of load: `concurrency` users, or `rate` requests a second. Throughput is that of
    the requests that succeeded, over the time from the first due to the last end. `send_delay` is
    how late requests left this client: if it is long, the client was the one that could not keep
    up. `is_counted`: tokens are those that the endpoint says it has counted. `pace` is that of an
    open loop."""

    concurrency: int | None
    rate: float | None
    num_requests: int
    num_failed: int
    failures: Mapping[str, int]
    duration_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    is_counted: bool
    request_throughput: float
    output_throughput: float
    total_throughput: float
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None
    itl_ms: Distribution | None
    e2e_ms: Distribution | None
    send_delay_ms: Distribution | None
    pace: Pace | None

    @property
    def level(self) -> float:
        level = self.concurrency if self.rate is None else self.rate
        assert level is not None
        return level


def summarize(
    timings: Sequence[Timing], *, concurrency: int | None = None, rate: float | None = None
) -> LoadReport:
    done = [timing for timing in timings if timing.error is None]
    duration_s = max(t.end_s for t in timings) - min(t.due_s for t in timings)
    num_prompt, num_output = sum(t.num_prompt for t in done), sum(t.num_output for t in done)
    return LoadReport(
        concurrency=concurrency,
        rate=rate,
        num_requests=len(timings),
        num_failed=len(timings) - len(done),
        failures=Counter(t.error for t in timings if t.error is not None),
        duration_s=duration_s,
        num_prompt_tokens=num_prompt,
        num_output_tokens=num_output,
        is_counted=all(t.is_counted for t in done),
        request_throughput=len(done) / duration_s,
        output_throughput=num_output / duration_s,
        total_throughput=(num_prompt + num_output) / duration_s,
        ttft_ms=Distribution.of(t.pieces_s[0] - t.due_s for t in done if t.pieces_s),
        tpot_ms=Distribution.of(_per_token(t) for t in done if t.pieces_s and t.num_output > 1),
        itl_ms=Distribution.of(b - a for t in done for a, b in pairwise(t.pieces_s)),
        e2e_ms=Distribution.of(t.end_s - t.due_s for t in done),
        send_delay_ms=Distribution.of(t.sent_s - t.due_s for t in timings),
        pace=None if rate is None else pace_of(timings, rate=rate),
    )


def _per_token(timing: Timing) -> float:
    return (timing.pieces_s[-1] - timing.pieces_s[0]) / (timing.num_output - 1)


def _percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest of sorted values, as NumPy has it."""
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])
