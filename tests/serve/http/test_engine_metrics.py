"""What the engine tells of itself is read as vLLM's dashboards read it."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pharos.serve.engine.request import Output, Request
from pharos.serve.engine.stats import STEP_SIZES, AdapterStats, CacheInfo, EngineStats
from pharos.serve.http.engine_metrics import EngineCollector

CACHE = CacheInfo(
    block_size=16, num_blocks=500, num_host_blocks=20, prefix_cache=True, dtype="bfloat16"
)


class Telling:
    """An engine that tells this of itself."""

    max_len = 100
    is_healthy = True

    def __init__(self, **stats: Any) -> None:
        self._stats = EngineStats(**stats)

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        yield Output(request_id=request.id)

    async def load_adapter(self, name: str, folder: Path) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    def stats(self) -> EngineStats:
        return self._stats


def told(**stats: Any) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of each name, without the prefix."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(Telling(**stats), {"model_name": "tiny", "engine": "0"}))
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("model_name"), labels.pop("engine")) == ("tiny", "0")
            found.setdefault(sample.name.removeprefix("pharos:"), []).append((labels, sample.value))
    return found


def test_what_there_is_now_and_what_was_counted_are_told() -> None:
    found = told(num_running=2, num_waiting=3, kv_usage=0.5, prefix_hits=7, num_preemptions=1)
    for name, value in {
        "num_requests_running": 2,
        "num_requests_waiting": 3,
        "kv_cache_usage_perc": 0.5,
        "prefix_cache_hits_total": 7,
        "num_preemptions_total": 1,
    }.items():
        assert found[name] == [({}, value)]


def test_accepted_drafts_are_told_by_their_place() -> None:
    found = told(accepted_by_place=(5, 2, 0), num_accepted_tokens=7)
    assert found["spec_decode_num_accepted_tokens_per_pos_total"] == [
        ({"position": "0"}, 5),
        ({"position": "1"}, 2),
        ({"position": "2"}, 0),
    ]
    assert found["spec_decode_num_accepted_tokens_total"] == [({}, 7)]


def test_steps_add_up_from_the_smallest_to_all() -> None:
    sizes = [0] * len(STEP_SIZES) + [1]
    sizes[1] = 4
    found = told(num_steps=tuple(sizes), num_step_tokens=20_032)
    buckets = {labels["le"]: count for labels, count in found["iteration_tokens_total_bucket"]}
    assert list(buckets) == [*(str(float(size)) for size in STEP_SIZES), "+Inf"]
    assert (buckets["1.0"], buckets["8.0"], buckets["16384.0"], buckets["+Inf"]) == (0, 4, 4, 5)
    assert found["iteration_tokens_total_count"] == [({}, 5)]
    assert found["iteration_tokens_total_sum"] == [({}, 20_032)]


def test_the_cache_is_described_under_vllms_labels() -> None:
    ((labels, value),) = told(cache=CACHE)["cache_config_info"]
    assert value == 1
    assert labels == {
        "block_size": "16",
        "num_gpu_blocks": "500",
        "num_cpu_blocks": "20",
        "enable_prefix_caching": "True",
        "cache_dtype": "bfloat16",
    }


def test_adapters_that_run_and_wait_are_named() -> None:
    stats = AdapterStats(running=("a", "b"), waiting=(), most=32)
    ((labels, _),) = told(adapters=stats)["lora_requests_info"]
    assert labels == {
        "running_lora_adapters": "a,b",
        "waiting_lora_adapters": "",
        "max_lora": "32",
    }


def test_of_an_engine_that_does_not_run_nothing_is_described() -> None:
    found = told()
    assert "cache_config_info" not in found and "lora_requests_info" not in found
    assert found["num_requests_running"] == [({}, 0)]
