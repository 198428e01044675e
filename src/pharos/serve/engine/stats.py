"""What the engine tells of itself beside its outputs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """What the engine holds now, and counts since its start. `kv_usage` is the share of its blocks
    that requests use. Prefix queries and hits count tokens; drafts count proposals, their tokens,
    and those of them that were right."""

    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.0
    num_preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
