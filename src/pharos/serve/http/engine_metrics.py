"""What the engine tells of itself, for Prometheus: vLLM's metrics with our prefix."""

import time
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pharos.serve.engine.stats import STEP_SIZES, AdapterStats, CacheInfo, EngineStats
from pharos.serve.http.contract import Engine

LABELS = ("model_name", "engine")


class EngineCollector(Collector):
    """Asks the engine when Prometheus asks."""

    def __init__(self, engine: Engine, labels: dict[str, str]) -> None:
        self._engine = engine
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from self._gauges(stats)
        yield from self._counters(stats)
        yield self._accepted_by_place(stats)
        yield self._step_tokens(stats)
        if stats.cache is not None:
            yield self._cache_info(stats.cache)
        if stats.adapters is not None:
            yield self._adapters_info(stats.adapters)

    def _gauges(self, stats: EngineStats) -> Iterator[Metric]:
        for name, help_, value in (
            ("num_requests_running", "Requests in the batch.", stats.num_running),
            ("num_requests_waiting", "Requests that wait.", stats.num_waiting),
            ("kv_cache_usage_perc", "Share of the KV blocks in use; 1 is all.", stats.kv_usage),
        ):
            yield self._gauge(name, help_, {}, value)

    def _counters(self, stats: EngineStats) -> Iterator[Metric]:
        for name, help_, value in (
            ("num_preemptions", "Requests put back to wait.", stats.num_preemptions),
            ("prefix_cache_queries", "Tokens looked for in the cache.", stats.prefix_queries),
            ("prefix_cache_hits", "Tokens found in the cache.", stats.prefix_hits),
            ("spec_decode_num_drafts", "Drafts made.", stats.num_drafts),
            ("spec_decode_num_draft_tokens", "Tokens drafted.", stats.num_draft_tokens),
            ("spec_decode_num_accepted_tokens", "Tokens accepted.", stats.num_accepted_tokens),
        ):
            counter = CounterMetricFamily(f"pharos:{name}", help_, labels=LABELS)
            counter.add_metric(list(self._labels.values()), value)
            yield counter

    def _accepted_by_place(self, stats: EngineStats) -> Metric:
        counter = CounterMetricFamily(
            "pharos:spec_decode_num_accepted_tokens_per_pos",
            "Tokens accepted, by their place in a draft.",
            labels=(*LABELS, "position"),
        )
        for place, count in enumerate(stats.accepted_by_place):
            counter.add_metric([*self._labels.values(), str(place)], count)
        return counter

    def _step_tokens(self, stats: EngineStats) -> Metric:
        histogram = HistogramMetricFamily(
            "pharos:iteration_tokens_total", "Tokens computed in a step.", labels=LABELS
        )
        bounds = [*(str(float(size)) for size in STEP_SIZES), "+Inf"]
        buckets = list(zip(bounds, accumulate(stats.num_steps), strict=True))
        histogram.add_metric(list(self._labels.values()), buckets, stats.num_step_tokens)
        return histogram

    def _cache_info(self, cache: CacheInfo) -> Metric:
        """vLLM's labels, whose GPU is whatever device the model is on."""
        told = {
            "block_size": cache.block_size,
            "num_gpu_blocks": cache.num_blocks,
            "num_cpu_blocks": cache.num_host_blocks,
            "enable_prefix_caching": cache.prefix_cache,
            "cache_dtype": cache.dtype,
        }
        return self._gauge("cache_config_info", "How keys and values are kept.", told, 1)

    def _adapters_info(self, adapters: AdapterStats) -> Metric:
        told = {
            "max_lora": adapters.most,
            "running_lora_adapters": ",".join(adapters.running),
            "waiting_lora_adapters": ",".join(adapters.waiting),
        }
        help_ = "Adapters of requests that run and wait; the value is the time."
        return self._gauge("lora_requests_info", help_, told, time.time())

    def _gauge(self, name: str, help_: str, more: dict[str, object], value: float) -> Metric:
        gauge = GaugeMetricFamily(f"pharos:{name}", help_, labels=(*LABELS, *more))
        gauge.add_metric([*self._labels.values(), *map(str, more.values())], value)
        return gauge
