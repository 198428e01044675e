"""What is told of an engine is what it has done."""

from pathlib import Path

import torch

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.core import SamplingParams
from pharos.models.doubles import tiny_llama
from pharos.serve.engine.build import EngineConfig, engine_over
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.request import Request
from pharos.serve.engine.scheduler import SchedulerConfig
from pharos.serve.engine.stats import STEP_SIZES, CacheInfo
from pharos.serve.engine.tally import Tally


def engine_with(*, seats: int = 4) -> Engine:
    scheduling = SchedulerConfig(max_num_seqs=seats, max_num_batched_tokens=16)
    config = EngineConfig(scheduler=scheduling, num_blocks=20, block_size=4, num_host_blocks=3)
    return engine_over(tiny_llama(), None, config)


def request(name: str, length: int, adapter: str | None = None) -> Request:
    params = SamplingParams(max_tokens=3)
    return Request(id=name, prompt=[5] * length, params=params, adapter=adapter)


def test_each_step_is_counted_by_its_tokens() -> None:
    engine = engine_with()
    engine.add(request("a", 20))
    while engine.has_work:
        engine.step()
    steps = dict(zip((*STEP_SIZES, None), engine.stats.num_steps, strict=True))
    assert {size: count for size, count in steps.items() if count} == {16: 1, 8: 1, 1: 2}
    assert engine.stats.num_step_tokens == 16 + 4 + 1 + 1


def test_a_step_of_a_bucket_s_size_is_in_it_and_larger_ones_are_behind_the_last() -> None:
    engine = engine_with()
    tally = Tally(engine.scheduler, engine.runner)
    for size in (*STEP_SIZES, STEP_SIZES[-1] + 1):
        tally.note_step(size)
    assert tally.stats().num_steps == (1,) * (len(STEP_SIZES) + 1)


def test_drafts_are_counted_by_the_place_where_they_were_right() -> None:
    engine = engine_with()
    tally = Tally(engine.scheduler, engine.runner)
    for num_drafts, num_right in ((2, 1), (4, 0), (3, 3)):
        tally.note_drafts(num_drafts, num_right)
    stats = tally.stats()
    assert stats.accepted_by_place == (2, 1, 1, 0)
    assert (stats.num_drafts, stats.num_draft_tokens, stats.num_accepted_tokens) == (3, 9, 4)


def test_the_cache_is_described() -> None:
    assert engine_with().stats.cache == CacheInfo(
        block_size=4, num_blocks=20, num_host_blocks=3, prefix_cache=True, dtype="float32"
    )


@torch.no_grad()
def write_adapter(folder: Path) -> None:
    adapters = Adapters(tiny_llama())
    adapters.add(LoraConfig(r=4))
    save_adapter(adapters, folder)


def test_adapters_are_named_for_as_long_as_requests_need_them(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    engine = engine_with(seats=2)
    for name in "ab":
        engine.load_adapter(name, tmp_path)
    asked = ("a", None, "b", "a")
    for number, adapter in enumerate(asked):
        engine.add(request(str(number), 3, adapter))
    engine.step()
    stats = engine.stats.adapters
    assert stats is not None
    assert (stats.running, stats.waiting) == (("a",), ("a", "b"))
    engine.unload_adapter("a")
    assert engine.stats.adapters == stats, "who asked for it keeps it"
    while engine.has_work:
        engine.step()
    stats = engine.stats.adapters
    assert stats is not None
    assert (stats.running, stats.waiting, stats.most) == ((), (), 32)
