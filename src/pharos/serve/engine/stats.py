"""What the engine tells of itself beside its outputs."""

from dataclasses import dataclass

STEP_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)
"""Steps are counted by their tokens: up to so many, and more than the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheInfo:
    """Where keys and values are kept: in blocks of `block_size` tokens, on the device and in the
    host's memory. `dtype` is torch's name for their type."""

    block_size: int
    num_blocks: int
    num_host_blocks: int
    prefix_cache: bool
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterStats:
    """The names of adapters that requests have asked for which run, or wait. At most `most` are in
    memory."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """What the engine holds now, and counts since its start. `kv_usage` is the share of its blocks
    that requests use. Prefix queries and hits count tokens; drafts count proposals, their tokens,
    and those of them that were right (`accepted_by_place` for each place in a proposal).
    `num_steps` are the steps of each of `STEP_SIZES`, and of more. There is no `cache` before an
    engine runs, and no `adapters` where it serves none."""

    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.0
    num_preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_by_place: tuple[int, ...] = ()
    num_steps: tuple[int, ...] = (0,) * (len(STEP_SIZES) + 1)
    num_step_tokens: int = 0
    cache: CacheInfo | None = None
    adapters: AdapterStats | None = None
