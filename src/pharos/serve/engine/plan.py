"""What one step of the engine does: decided by the scheduler, carried out by the runner."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pharos.serve.engine.request import Sequence


class Part(NamedTuple):
    """Of `sequence`, the `num_tokens` tokens from `start` (its `num_computed`) on are computed,
    drafts included. Logits are wanted after the last `num_logits` of them: 0 while a prompt is
    being read, else one for the newest token and one for each draft."""

    sequence: Sequence
    start: int
    num_tokens: int
    num_logits: int


class Move(NamedTuple):
    """A whole block is copied before the forward pass: out to the host's memory, or back in."""

    direction: Literal["out", "in"]
    device_block: int
    host_block: int


@dataclass(frozen=True, slots=True)
class Plan:
    parts: list[Part] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(part.num_tokens for part in self.parts)

    @property
    def num_read(self) -> int:
        """Of them, those of parts that are being read, and not written or checked."""
        return sum(part.num_tokens for part in self.parts if part.num_tokens > part.num_logits)
