"""Who computes what in the next step.

There are no phases of reading and writing: each sequence has tokens of which some are computed, and
a step computes more of them, as many as its budget of tokens allows for all together (Yu et al.
2022, Orca; Agrawal et al. 2024, arXiv:2403.02310). So prompts are read in chunks beside sequences
that are being written, drafts are checked, and what was preempted catches up, by one rule.

The budget goes, in this order, to

    sequences that are being written: their newest token, and as many drafts as there is room for
    prompts that are being read: at most half to the long ones while short ones want the rest
    those that wait, in the order of their priority and arrival, for as long as there is room

What is embedded is read whole, in one step. Where too little is left for it, others are let past,
and the next step begins with it, whatever it leaves for those that are being written: every other
step at most, so that neither ever waits for an end of the other's.

A sequence is admitted when all its tokens so far find room, and still some blocks stay available
for those that run to grow. It is given those blocks at once, so that only what is being written
can ever run out of them. Then the sequence that would be served last is preempted: it gives its
blocks back and waits. What `max_tokens` could make too large for the pool on its own is refused
when it comes, so that a sequence that runs alone never has to be preempted.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice

from pharos.serve.engine.block_pool import BlockPool, Prefix
from pharos.serve.engine.fitting import refuse_unfit
from pharos.serve.engine.plan import Plan
from pharos.serve.engine.request import FinishReason, Sequence, Status
from pharos.serve.engine.sequence_queue import SequenceQueue
from pharos.serve.engine.step import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """At most `max_num_seqs` sequences run at a time, and a step computes at most
    `max_num_batched_tokens` tokens. A prompt and its continuation have at most `max_model_len`
    tokens (None: the model has no limit). A prompt with more than `long_prompt_tokens` left to
    read is long. `watermark` is the share of the blocks that an admission leaves available."""

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = None
    long_prompt_tokens: int = 1024
    watermark: float = 0.02

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1:
            raise ValueError(f"max_num_seqs is {self.max_num_seqs}; it must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}; it must be at least "
                f"max_num_seqs, {self.max_num_seqs}: each needs a token in a step"
            )
        if self.long_prompt_tokens < 1:
            raise ValueError(
                f"long_prompt_tokens is {self.long_prompt_tokens}; it must be at least 1"
            )
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(
                f"watermark is {self.watermark}; it must be at least 0 and less than 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerStats:
    """`kv_usage` is the share of the blocks that sequences use. Of `prefix_queries` tokens that
    were looked for when a request was first admitted, `prefix_hits` needed no computing, some of
    them because they were kept on the host. All but the first three count from the beginning."""

    num_running: int
    num_waiting: int
    kv_usage: float
    prefix_queries: int
    prefix_hits: int
    num_preemptions: int


class Scheduler:
    """`plan` and `computed` take turns: a step is computed (or abandoned) before the next is
    planned. `add` and `finish` may come at any time, also between the two."""

    def __init__(self, config: SchedulerConfig, pool: BlockPool) -> None:
        self.config = config
        self.pool = pool
        self.waiting = SequenceQueue()
        self.running = SequenceQueue()
        self._watermark = int(config.watermark * pool.num_blocks)
        self._planned: Plan | None = None
        self._owed: Sequence | None = None
        """What is to be embedded, and found too little left of the step before."""
        self._prefix_queries = 0
        self._prefix_hits = 0
        self._num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting) or bool(self.running)

    @property
    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            kv_usage=self.pool.num_used / self.pool.num_blocks,
            prefix_queries=self._prefix_queries,
            prefix_hits=self._prefix_hits,
            num_preemptions=self._num_preemptions,
        )

    def add(self, sequence: Sequence) -> None:
        """Raises ValueError for what could never be computed, however long it waited."""
        assert sequence.status is Status.WAITING and not sequence.blocks
        refuse_unfit(
            sequence.request,
            max_step=self.config.max_num_batched_tokens,
            max_len=self.config.max_model_len,
            room=self.pool.num_blocks * self.pool.block_size,
        )
        self.waiting.add(sequence)

    def finish(self, sequence: Sequence, reason: FinishReason) -> bool:
        """Ends a sequence, whatever it is doing; False if it has ended before."""
        if sequence.status is Status.FINISHED:
            return False
        queue = self.waiting if sequence.status is Status.WAITING else self.running
        queue.remove(sequence)
        self.pool.free(sequence)
        sequence.drafts.clear()
        sequence.status = Status.FINISHED
        sequence.finish_reason = reason
        return True

    def plan(self) -> Plan:
        """The next step. Without parts, there is nothing to do until something is added."""
        assert self._planned is None, "the step before is neither computed nor abandoned"
        step = Step(self.config.max_num_batched_tokens)
        self._make_way(step)
        self._repay(step)
        self._write(step)
        self._read(step)
        self._planned = Plan(list(step.parts.values()), self.pool.take_moves())
        return self._planned

    def computed(self, plan: Plan, accepted: Mapping[Sequence, Seq[int]]) -> None:
        """The step is done. `accepted` are the new tokens of each part that wanted logits: its
        drafts as far as they were right, and the token after them. A sequence that was finished
        meanwhile is passed over."""
        self._close(plan)
        for sequence, start, num_tokens, num_logits in plan.parts:
            if sequence.status is not Status.RUNNING:
                continue
            sequence.num_computed += num_tokens
            if num_logits:
                self._append(sequence, accepted[sequence], num_logits)
            if sequence.request.kind == "generate":
                self.pool.publish(sequence, start)

    def abandon(self, plan: Plan) -> None:
        """The step failed, and what it has left in the cache is unknown: its sequences end with
        "error", and no prefix is reused from before."""
        self._close(plan)
        for part in plan.parts:
            self.finish(part.sequence, "error")
        self.pool.clear()

    def check(self) -> None:
        """Asserts that blocks and queues add up."""
        self.pool.check(self.running)
        assert all(sequence.status is Status.RUNNING for sequence in self.running)
        assert all(sequence.status is Status.WAITING for sequence in self.waiting)
        assert not any(sequence.blocks or sequence.num_computed for sequence in self.waiting)
        for sequence in self.running:
            writable = sequence.blocks[sequence.num_computed // self.pool.block_size :]
            assert all(map(self.pool.is_writable, writable)), "a block that is shared is written to"

    def _close(self, plan: Plan) -> None:
        assert plan is self._planned, "another step was planned"
        self._planned = None
        self.pool.host.release()

    def _append(self, sequence: Sequence, accepted: Seq[int], num_logits: int) -> None:
        """The last of the new tokens is not computed yet, and what is not accepted is not either,
        whatever the cache holds in its place."""
        assert 1 <= len(accepted) <= num_logits, f"{len(accepted)} tokens from {num_logits} logits"
        sequence.tokens += accepted
        sequence.num_computed = len(sequence.tokens) - 1
        sequence.drafts.clear()

    # Writing

    def _write(self, step: Step) -> None:
        """A token for each sequence that is being written, and drafts from what is left then."""
        writing = [s for s in self.running if s.num_computed == len(s.tokens) - 1]
        for sequence in writing:
            if sequence.status is Status.RUNNING:
                self._make_room(sequence, step)
        writing = [s for s in writing if s.status is Status.RUNNING]
        spare = step.budget - len(writing)
        for sequence in writing:
            if sequence.drafts:
                self._keep_drafts(sequence, spare)
            spare -= len(sequence.drafts)
            step.grant(sequence, sequence.num_pending)

    def _make_room(self, sequence: Sequence, step: Step) -> None:
        """Room for the next token, if need be by preempting those that are served after it, the
        last first, or else itself."""
        num_tokens = len(sequence.tokens)
        needed = self.pool.blocks_for(num_tokens) - len(sequence.blocks)
        while self.pool.num_available < needed:
            victim = next(s for s in self.running.from_last() if s not in step.parts)
            self._preempt(victim, step)
            if victim is sequence:
                return
        self.pool.grow(sequence, num_tokens)

    def _keep_drafts(self, sequence: Sequence, spare: int) -> None:
        """Drops the drafts that are too many: for the budget, for `max_tokens`, or for the blocks
        that are left when all have room for their next token."""
        num_tokens = len(sequence.tokens)
        useful = sequence.request.params.max_tokens - sequence.num_generated - 1
        free = (len(sequence.blocks) + self.pool.num_available) * self.pool.block_size - num_tokens
        del sequence.drafts[max(0, min(spare, useful, free)) :]
        self.pool.grow(sequence, num_tokens + len(sequence.drafts))

    def _preempt(self, sequence: Sequence, step: Step) -> None:
        self.running.remove(sequence)
        self.pool.free(sequence)
        sequence.drafts.clear()
        sequence.num_computed = 0
        sequence.num_preemptions += 1
        sequence.status = Status.WAITING
        self.waiting.add(sequence)
        step.note_victim(sequence)
        self._num_preemptions += 1

    # Reading

    def _read(self, step: Step) -> None:
        reading = [s for s in self.running if s not in step.parts and s.num_pending]
        step.long_budget = self._long_budget(step, reading)
        for sequence in sorted(reading, key=self._is_long, reverse=True):
            self._grant(sequence, step)
        self._admit(step)
        for sequence in self.running:
            if step.wants_more(sequence):
                step.grant(sequence, step.budget)

    def _grant(self, sequence: Sequence, step: Step) -> None:
        if self._is_long(sequence):
            step.long_budget -= step.grant(sequence, step.long_budget)
        else:
            step.grant(sequence, step.budget)

    def _long_budget(self, step: Step, reading: Seq[Sequence]) -> int:
        """Half for the long prompts, and what the short ones leave of theirs."""
        next_ones = islice(self.waiting, self._num_seats)
        wanted = sum(s.num_pending for s in (*reading, *next_ones) if not self._is_long(s))
        return step.budget - min(wanted, step.budget // 2)

    def _is_long(self, sequence: Sequence, num_kept: int = 0) -> bool:
        """Whether much is left to read, beyond `num_kept` tokens that are cached. What is embedded
        is read whole, so it cannot be made to wait for a part of a step."""
        is_read_in_parts = sequence.request.kind == "generate"
        return is_read_in_parts and sequence.num_pending - num_kept > self.config.long_prompt_tokens

    # Admission

    @property
    def _num_seats(self) -> int:
        return self.config.max_num_seqs - len(self.running)

    def _make_way(self, step: Step) -> None:
        """Preempts the last of those that run for one that goes before them and finds no room."""
        first = next(filter(_is_ready, self.waiting), None)
        givers = [] if first is None else [s for s in self.running if _goes_before(first, s)]
        if first is None or not givers or not self._would_do(givers, first):
            return
        while self.running and _goes_before(first, self.running.last):
            if self._num_seats and self._has_room(first, self.pool.match(first)):
                return
            self._preempt(self.running.last, step)

    def _would_do(self, givers: Seq[Sequence], first: Sequence) -> bool:
        """Whether one would find room without those that it goes before: none of them gives way in
        vain."""
        if first.request.kind == "embed":
            return True
        prefix = self.pool.match(first)
        freed = self.pool.num_freed(givers, prefix)
        left = self.pool.num_available + freed - self.pool.num_needed(first, prefix)
        return left >= (self._watermark if len(givers) < len(self.running) else 0)

    def _repay(self, step: Step) -> None:
        """Begins with the text that found too little left of the step before."""
        owed, self._owed = self._owed, None
        if owed is None or owed.status is not Status.WAITING:
            return
        if self._num_seats and step.may_admit(owed):
            self._embed(owed, step)
            step.has_repaid = True

    def _admit(self, step: Step) -> None:
        """In order: who finds no room lets nobody pass, or it would never find any. Only what is
        embedded does: the next step may begin with it, and a seat is kept."""
        for sequence in self.waiting:
            if self._num_seats <= step.has_passed or not step.may_admit(sequence):
                return
            if not _is_ready(sequence):
                continue
            if sequence.request.kind == "embed":
                self._embed(sequence, step)
            elif not self._begin(sequence, step):
                return

    def _embed(self, sequence: Sequence, step: Step) -> None:
        """The first that is too long for what is left begins the next step, if none has begun this
        one."""
        if sequence.num_pending <= step.budget:
            self._start(sequence, [])
            step.grant(sequence, step.budget)
            return
        step.has_passed = True
        if self._owed is None and not step.has_repaid:
            self._owed = sequence

    def _begin(self, sequence: Sequence, step: Step) -> bool:
        """Begins to read a prompt, if its time has come; whether those after it may begin too."""
        if not step.budget:
            return False
        prefix = self.pool.match(sequence)
        if self._is_being_read(sequence, len(prefix)):
            return True
        if not self._has_room(sequence, prefix):
            return False
        if step.long_budget or not self._is_long(sequence, len(prefix) * self.pool.block_size):
            self._start(sequence, prefix)
            self._grant(sequence, step)
        return True

    def _is_being_read(self, sequence: Sequence, num_kept: int) -> bool:
        """Whether somebody computes the block after the first `num_kept`: to wait for it is faster
        than to compute it too. Those who ask for the same thing often come together."""
        key = sequence.block_keys[num_kept : num_kept + 1]
        return bool(key) and any(
            other.num_computed < (num_kept + 1) * self.pool.block_size
            and other.block_keys[num_kept : num_kept + 1] == key
            for other in self.running
        )

    def _has_room(self, sequence: Sequence, prefix: Prefix) -> bool:
        if sequence.request.kind == "embed":
            return True
        left = self.pool.num_available - self.pool.num_needed(sequence, prefix)
        return left >= (self._watermark if self.running else 0)

    def _start(self, sequence: Sequence, prefix: Prefix) -> None:
        self.waiting.remove(sequence)
        self.running.add(sequence)
        sequence.status = Status.RUNNING
        if sequence.request.kind == "embed":
            return
        self.pool.admit(sequence, prefix)
        sequence.num_computed = len(prefix) * self.pool.block_size
        if sequence.num_preemptions == 0:
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
            self._prefix_queries += sequence.num_prompt
            self._prefix_hits += sequence.num_cached


def _is_ready(sequence: Sequence) -> bool:
    """A grammar is compiled while its request waits."""
    return sequence.request.grammar is None or sequence.grammar is not None


def _goes_before(sequence: Sequence, other: Sequence) -> bool:
    return sequence.request.priority < other.request.priority
