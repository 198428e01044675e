"""The scheduler and the block pool under random use, over a device that is only pretended: each
slot of a block holds all the tokens that its keys and values would depend on. So whoever is given
a wrong block, at any time, is found out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pharos.core import SamplingParams
from pharos.serve.engine.available_blocks import AvailableBlocks
from pharos.serve.engine.block_keys import extend_keys
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.grammar import GrammarState
from pharos.serve.engine.pace import Pace
from pharos.serve.engine.plan import Move, Part, Plan
from pharos.serve.engine.request import FinishReason, Grammar, Request, Sequence, Status
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig

NUM_TOKENS = 3
Slot = tuple[Any, ...] | None


def next_token(sequence: Sequence, tokens: list[int]) -> int:
    """What the pretended model writes after these tokens: it depends on all of them."""
    return hash((sequence.request.adapter, sequence.generation, *tokens)) % NUM_TOKENS


def kept_for(sequence: Sequence, tokens: list[int]) -> Slot:
    """What the keys and values of the last of these tokens depend on, and who may reuse them."""
    return (sequence.request.adapter, sequence.generation, sequence.request.salt, *tokens)


def key_of(block: list[Slot]) -> bytes | None:
    """The key under which a full block may be found, by what is in it."""
    last = block[-1]
    if last is None:
        return None
    adapter, generation, salt, *tokens = last
    request = Request(id="", prompt=cast(list[int], tokens), adapter=adapter, salt=salt)
    sequence = Sequence(request, 0, list(request.prompt), generation=generation)
    extend_keys(sequence, len(block), len(tokens) // len(block))
    return sequence.block_keys[-1]


class Device:
    def __init__(self, pool: BlockPool, host_blocks: int) -> None:
        self.pool = pool
        empty: list[Slot] = [None] * pool.block_size
        self.blocks = [list(empty) for _ in range(pool.num_blocks)]
        self.host = [list(empty) for _ in range(host_blocks)]

    def run(self, plan: Plan) -> dict[Sequence, list[int]]:
        """Carries a plan out; the tokens that are accepted."""
        self.move(plan.moves)
        for part in plan.parts:
            if part.sequence.request.kind == "generate":
                self.write(part)
        accepted = {}
        for part in plan.parts:
            if part.sequence.request.kind == "generate":
                self.compare(part)
            if part.num_logits:
                accepted[part.sequence] = self.draw(part)
        return accepted

    def move(self, moves: list[Move]) -> None:
        """Those out before those in, and otherwise in any order (here: from behind)."""
        for direction in ("out", "in"):
            for move in reversed([move for move in moves if move.direction == direction]):
                device, host = self.blocks[move.device_block], self.host[move.host_block]
                if direction == "out":
                    host[:] = device
                else:
                    device[:] = host

    def write(self, part: Part) -> None:
        sequence, start, num_tokens, _ = part
        tokens = sequence.tokens + sequence.drafts
        for position in range(start, start + num_tokens):
            index, slot = divmod(position, self.pool.block_size)
            block = sequence.blocks[index]
            assert self.pool.is_writable(block)
            self.blocks[block][slot] = kept_for(sequence, tokens[: position + 1])

    def compare(self, part: Part) -> None:
        sequence, start, num_tokens, _ = part
        tokens = sequence.tokens + sequence.drafts
        for position in range(start + num_tokens):
            index, slot = divmod(position, self.pool.block_size)
            kept = self.blocks[sequence.blocks[index]][slot]
            assert kept == kept_for(sequence, tokens[: position + 1])

    def draw(self, part: Part) -> list[int]:
        sequence = part.sequence
        assert part.num_logits == 1 + len(sequence.drafts)
        accepted: list[int] = []
        for draft in [*sequence.drafts, None]:
            accepted.append(next_token(sequence, sequence.tokens + accepted))
            if accepted[-1] != draft:
                break
        return accepted


class SchedulerMachine(RuleBasedStateMachine):
    sequences = Bundle("sequences")

    @initialize(
        room=st.integers(12, 40),
        block_size=st.integers(1, 4),
        group_size=st.integers(1, 4),
        host_blocks=st.sampled_from([0, 2, 5, 40]),
        prefix_cache=st.sampled_from([True, True, True, False]),
        max_num_seqs=st.integers(2, 6),
        more_tokens=st.integers(0, 12),
        long_prompt=st.integers(1, 10),
        watermark=st.sampled_from([0.0, 0.0, 0.1, 0.3]),
    )
    def begin(
        self,
        room: int,
        block_size: int,
        group_size: int,
        host_blocks: int,
        prefix_cache: bool,
        max_num_seqs: int,
        more_tokens: int,
        long_prompt: int,
        watermark: float,
    ) -> None:
        config = SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + more_tokens,
            max_model_len=40,
            long_prompt_tokens=long_prompt,
            watermark=watermark,
        )
        num_blocks = room // block_size
        self.pool = BlockPool(
            num_blocks, block_size, num_host_blocks=host_blocks, prefix_cache=prefix_cache
        )
        self.pool._available = AvailableBlocks(num_blocks, group_size)
        self.scheduler = Scheduler(config, self.pool)
        self.device = Device(self.pool, host_blocks)
        self.alive: list[Sequence] = []
        self.ended: dict[Sequence, FinishReason] = {}
        self.arrivals = 0

    @rule(
        target=sequences,
        shared=st.integers(0, 12),
        own=st.lists(st.integers(0, NUM_TOKENS - 1), max_size=6),
        max_tokens=st.integers(1, 12),
        priority=st.integers(0, 2),
        kind=st.sampled_from(["generate"] * 5 + ["embed"]),
        salt=st.sampled_from(["", "", "tenant"]),
        generation=st.sampled_from([0, 0, 1]),
        has_grammar=st.sampled_from([False] * 5 + [True]),
        copies=st.integers(1, 4),
    )
    def add(
        self,
        shared: int,
        own: list[int],
        max_tokens: int,
        priority: int,
        kind: str,
        salt: str,
        generation: int,
        has_grammar: bool,
        copies: int,
    ) -> object:
        request = Request(
            id="r",
            prompt=[position % NUM_TOKENS for position in range(shared)] + own,
            params=SamplingParams(max_tokens=max_tokens),
            priority=priority,
            kind="embed" if kind == "embed" else "generate",
            salt=salt,
            grammar=Grammar(kind="json_object") if has_grammar else None,
        )
        added = []
        for _ in range(copies):
            self.arrivals += 1
            request = replace(request, id=f"r{self.arrivals}")
            sequence = Sequence(request, self.arrivals, list(request.prompt), generation=generation)
            try:
                self.scheduler.add(sequence)
            except ValueError:
                assert not self.could_fit(sequence)
                continue
            assert self.could_fit(sequence)
            self.alive.append(sequence)
            added.append(sequence)
        return multiple(*added)

    def could_fit(self, sequence: Sequence) -> bool:
        config = self.scheduler.config
        num_prompt = sequence.num_prompt
        if sequence.request.kind == "embed":
            return 0 < num_prompt <= config.max_num_batched_tokens
        length = num_prompt + sequence.request.params.max_tokens
        room = self.pool.num_blocks * self.pool.block_size
        return num_prompt > 0 and length <= 40 and length - 1 <= room

    @rule(move_s=st.sampled_from([0.0, 1.0, 3.0, 9.0]), read_s=st.sampled_from([0.5, 1.0, 2.0]))
    def the_machine_changes_its_pace(self, move_s: float, read_s: float) -> None:
        self.pool.pace = Pace(self.pool.block_size)
        self.pool.pace.note_moves(1, move_s)
        self.pool.pace.note_reading(self.pool.block_size, read_s)

    @rule(sequence=sequences)
    def compile_grammar(self, sequence: Sequence) -> None:
        if sequence.request.grammar is not None:
            sequence.grammar = cast(GrammarState, object())

    @rule(sequence=consumes(sequences))
    def abort(self, sequence: Sequence) -> None:
        self.finish(sequence, "abort")

    @precondition(lambda self: self.alive)
    @rule(
        count=st.integers(1, 8),
        drafts=st.lists(st.integers(0, NUM_TOKENS - 1), max_size=4),
        right=st.booleans(),
    )
    def steps(self, count: int, drafts: list[int], right: bool) -> None:
        for _ in range(count):
            self.take_step(drafts=drafts, right=right)
            self.everything_adds_up()

    @precondition(lambda self: self.alive)
    @rule(number=st.integers(0, 10))
    def step_during_which_one_is_aborted(self, number: int) -> None:
        victim = self.alive[number % len(self.alive)]
        self.take_step(meanwhile=lambda: self.finish(victim, "abort"))

    @precondition(lambda self: self.alive)
    @rule(count=st.integers(0, 8))
    def step_that_fails(self, count: int) -> None:
        for _ in range(count):
            self.take_step()
        plan = self.scheduler.plan()
        for part in plan.parts:
            for block in part.sequence.blocks[part.start // self.pool.block_size :]:
                self.device.blocks[block] = [None] * self.pool.block_size
        alive = [part.sequence for part in plan.parts]
        held = {s: list(s.blocks) for s in self.alive if s not in alive}
        self.scheduler.abandon(plan)
        for sequence in alive:
            self.note_end(sequence, "error")
        assert held == {s: list(s.blocks) for s in held}

    def take_step(
        self,
        *,
        drafts: list[int] | None = None,
        right: bool = False,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.propose(drafts or [], right)
        plan = self.scheduler.plan()
        self.look_at(plan)
        accepted = self.device.run(plan)
        before = {s: (s.num_computed, s.num_generated) for s in self.alive}
        meanwhile()
        self.scheduler.computed(plan, accepted)
        for part in plan.parts:
            if part.sequence.status is Status.RUNNING:
                self.look_at_progress(part, *before[part.sequence])
                self.end_if_done(part.sequence)

    def propose(self, drafts: list[int], right: bool) -> None:
        for sequence in self.scheduler.running:
            if sequence.num_computed == len(sequence.tokens) - 1 and drafts:
                guess: list[int] = []
                for draft in drafts:
                    token = next_token(sequence, sequence.tokens + guess)
                    guess.append(token if right else draft)
                sequence.drafts = guess

    def look_at(self, plan: Plan) -> None:
        config = self.scheduler.config
        assert plan.num_tokens <= config.max_num_batched_tokens
        assert len(plan.parts) <= len(self.scheduler.running) <= config.max_num_seqs
        assert len({part.sequence for part in plan.parts}) == len(plan.parts)
        for direction in ("in", "out"):
            moves = [move for move in plan.moves if move.direction == direction]
            assert len({move.device_block for move in moves}) == len(moves)
            assert direction == "in" or len({move.host_block for move in moves}) == len(moves)
        for sequence, start, num_tokens, num_logits in plan.parts:
            assert sequence.status is Status.RUNNING
            assert start == sequence.num_computed and num_tokens > 0
            if sequence.request.kind == "embed":
                assert (start, num_tokens, num_logits) == (0, sequence.num_prompt, 0)
        may_run = [s for s in self.alive if s.grammar or not s.request.grammar]
        assert plan.parts or not may_run, "there is work, and nothing is done"

    def look_at_progress(self, part: Part, computed: int, generated: int) -> None:
        sequence = part.sequence
        assert sequence.num_computed > computed
        assert (sequence.num_generated > generated) == (part.num_logits > 0)
        assert not sequence.drafts
        assert sequence.num_generated <= sequence.request.params.max_tokens

    def end_if_done(self, sequence: Sequence) -> None:
        if sequence.request.kind == "embed":
            assert sequence.num_computed == sequence.num_prompt
            self.finish(sequence, "stop")
        elif sequence.num_generated == sequence.request.params.max_tokens:
            tokens = list(sequence.request.prompt)
            while len(tokens) < len(sequence.tokens):
                tokens.append(next_token(sequence, tokens))
            assert tokens == sequence.tokens
            self.finish(sequence, "length")

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        assert self.scheduler.finish(sequence, reason) == (sequence not in self.ended)
        if sequence not in self.ended:
            self.note_end(sequence, reason)
        assert not self.scheduler.finish(sequence, "stop")

    def note_end(self, sequence: Sequence, reason: FinishReason) -> None:
        assert sequence not in self.ended
        self.ended[sequence] = reason
        self.alive.remove(sequence)

    @invariant()
    def everything_adds_up(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        pool, scheduler = self.pool, self.scheduler
        scheduler.check()
        assert pool.num_free + pool.num_used + pool.num_cached == pool.num_blocks
        queued = [*scheduler.running, *scheduler.waiting]
        assert sorted(queued, key=id) == sorted(self.alive, key=id)
        assert all(s.finish_reason is reason for s, reason in self.ended.items())
        assert scheduler.stats.prefix_hits <= scheduler.stats.prefix_queries
        self.published_blocks_hold_what_they_say()

    def published_blocks_hold_what_they_say(self) -> None:
        for block, key in enumerate(self.pool._keys):
            assert key is None or key == key_of(self.device.blocks[block])
        for key, copy in self.pool.host._copies.items():
            assert key == key_of(self.device.host[copy.id])

    def teardown(self) -> None:
        """Whatever has happened, all that is left comes to its end."""
        if not hasattr(self, "scheduler"):
            return
        for sequence in self.alive:
            self.compile_grammar_of(sequence)
        for _ in range(2000):
            if not self.scheduler.has_work:
                break
            self.take_step()
            self.everything_adds_up()
        assert not self.alive
        assert self.pool.num_used == 0

    def compile_grammar_of(self, sequence: Sequence) -> None:
        if sequence.request.grammar is not None:
            sequence.grammar = cast(GrammarState, object())


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


@pytest.mark.long
def test_thousands_of_random_histories() -> None:
    many = settings(max_examples=5000, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(SchedulerMachine, settings=many)
