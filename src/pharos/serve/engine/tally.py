"""What an engine counts of its steps, and reads off its parts, for who watches it."""

from bisect import bisect_left

from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import Scheduler
from pharos.serve.engine.sequence_queue import SequenceQueue
from pharos.serve.engine.stats import STEP_SIZES, AdapterStats, CacheInfo, EngineStats


class Tally:
    """Of one engine, from its start on."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._adapters = runner.adapters
        self._cache = CacheInfo(
            block_size=runner.kv.block_size,
            num_blocks=runner.kv.num_blocks,
            num_host_blocks=runner.kv.num_host_blocks,
            prefix_cache=scheduler.pool.prefix_cache,
            dtype=str(runner.kv.layers_2GPCK[0].dtype).removeprefix("torch."),
        )
        self._num_steps = [0] * (len(STEP_SIZES) + 1)
        self._num_step_tokens = 0
        self._num_drafts = 0
        self._num_draft_tokens = 0
        self._accepted_by_place: list[int] = []

    def note_step(self, num_tokens: int) -> None:
        """A step has computed so many."""
        self._num_steps[bisect_left(STEP_SIZES, num_tokens)] += 1
        self._num_step_tokens += num_tokens

    def note_drafts(self, num_drafts: int, num_right: int) -> None:
        """So many tokens were proposed at once, of which the first so many were right."""
        self._num_drafts += 1
        self._num_draft_tokens += num_drafts
        self._accepted_by_place += [0] * (num_drafts - len(self._accepted_by_place))
        for place in range(num_right):
            self._accepted_by_place[place] += 1

    def stats(self) -> EngineStats:
        scheduled = self._scheduler.stats
        return EngineStats(
            num_running=scheduled.num_running,
            num_waiting=scheduled.num_waiting,
            kv_usage=scheduled.kv_usage,
            num_preemptions=scheduled.num_preemptions,
            prefix_queries=scheduled.prefix_queries,
            prefix_hits=scheduled.prefix_hits,
            num_drafts=self._num_drafts,
            num_draft_tokens=self._num_draft_tokens,
            num_accepted_tokens=sum(self._accepted_by_place),
            accepted_by_place=tuple(self._accepted_by_place),
            num_steps=tuple(self._num_steps),
            num_step_tokens=self._num_step_tokens,
            cache=self._cache,
            adapters=self._adapter_stats(),
        )

    def _adapter_stats(self) -> AdapterStats | None:
        """None where there can be none. Those who wait are many: they are looked at only where one
        could ask for an adapter."""
        registry, scheduler = self._adapters, self._scheduler
        if registry is None:
            return None
        is_any = registry.num_in_memory > 0
        return AdapterStats(
            running=_asked_for(scheduler.running) if is_any else (),
            waiting=_asked_for(scheduler.waiting) if is_any else (),
            most=registry.max_adapters,
        )


def _asked_for(queue: SequenceQueue) -> tuple[str, ...]:
    names = {sequence.request.adapter for sequence in queue}
    return tuple(sorted(name for name in names if name is not None))
