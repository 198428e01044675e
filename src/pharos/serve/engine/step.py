"""A plan in the making: how much of a step's budget is left, and what was given of it."""

from dataclasses import dataclass, field

from pharos.serve.engine.plan import Part
from pharos.serve.engine.request import Sequence


@dataclass(slots=True)
class Step:
    """`budget` is how many more tokens may be computed, and `long_budget` how many of long prompts.
    `victim_priority` is the best of those that were preempted for it. `has_passed` says that
    somebody was let past a text that is to be embedded, `has_repaid` that one began it."""

    budget: int
    long_budget: int = 0
    parts: dict[Sequence, Part] = field(default_factory=dict)
    victim_priority: int | None = None
    has_passed: bool = False
    has_repaid: bool = False

    def grant(self, sequence: Sequence, most: int) -> int:
        """Has up to `most` (more) of a sequence's tokens computed; how many it is, for now."""
        part = self.parts.get(sequence)
        given = 0 if part is None else part.num_tokens
        more = min(most, sequence.num_pending - given, self.budget)
        if more > 0:
            is_last = given + more == sequence.num_pending and sequence.request.kind == "generate"
            num_logits = 1 + len(sequence.drafts) if is_last else 0
            self.parts[sequence] = Part(sequence, sequence.num_computed, given + more, num_logits)
            self.budget -= more
        return max(0, more)

    def wants_more(self, sequence: Sequence) -> bool:
        """Whether it is still being read."""
        return sequence not in self.parts or self.parts[sequence].num_logits == 0

    def note_victim(self, sequence: Sequence) -> None:
        assert sequence not in self.parts, "it is served before those that it gives way to"
        ours, theirs = sequence.request.priority, self.victim_priority
        self.victim_priority = ours if theirs is None else min(ours, theirs)

    def may_admit(self, sequence: Sequence) -> bool:
        """Nobody takes the place of a victim who does not go before it."""
        return self.victim_priority is None or sequence.request.priority < self.victim_priority
