from typing import cast

import pytest

from pharos.core import SamplingParams
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.grammar import GrammarState
from pharos.serve.engine.plan import Plan
from pharos.serve.engine.request import Grammar, Request, Sequence, Status
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig

WRITTEN = 7
"""What the model always writes."""


class Bench:
    """A scheduler, and sequences that arrive at it one after another."""

    def __init__(
        self,
        *,
        num_blocks: int = 100,
        block_size: int = 4,
        num_host_blocks: int = 0,
        seats: int = 8,
        budget: int = 64,
        long_prompt: int = 1000,
        watermark: float = 0.0,
        max_model_len: int | None = None,
    ) -> None:
        self.pool = BlockPool(num_blocks, block_size, num_host_blocks=num_host_blocks)
        config = SchedulerConfig(
            max_num_seqs=seats,
            max_num_batched_tokens=budget,
            long_prompt_tokens=long_prompt,
            watermark=watermark,
            max_model_len=max_model_len,
        )
        self.scheduler = Scheduler(config, self.pool)
        self.arrivals = 0

    def add(self, prompt: int | list[int], *, max_tokens: int = 10, **asked: object) -> Sequence:
        """A number asks for a prompt of that length, unlike all others."""
        self.arrivals += 1
        if isinstance(prompt, int):
            prompt = [1000 * self.arrivals + position for position in range(prompt)]
        request = Request(
            id=str(self.arrivals),
            prompt=prompt,
            params=SamplingParams(max_tokens=max_tokens),
            **asked,  # type: ignore[arg-type]
        )
        sequence = Sequence(request, self.arrivals, list(prompt))
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> dict[Sequence, int]:
        """How many tokens of each sequence a step computes."""
        plan = self.scheduler.plan()
        self.scheduler.computed(plan, written(plan))
        self.scheduler.check()
        return {part.sequence: part.num_tokens for part in plan.parts}


def written(plan: Plan) -> dict[Sequence, list[int]]:
    return {part.sequence: [WRITTEN] for part in plan.parts if part.num_logits}


# The budget of a step


def test_a_long_prompt_is_read_in_chunks_and_then_continued() -> None:
    bench = Bench(budget=10)
    sequence = bench.add(25)
    assert [bench.step()[sequence] for _ in range(4)] == [10, 10, 5, 1]
    assert sequence.tokens[25:] == [WRITTEN, WRITTEN]
    assert sequence.num_computed == 26


def test_logits_are_wanted_only_where_a_token_is_due() -> None:
    bench = Bench(budget=10)
    bench.add(15)
    wanted = []
    for _ in range(3):
        plan = bench.scheduler.plan()
        wanted.append([part.num_logits for part in plan.parts])
        bench.scheduler.computed(plan, written(plan))
    assert wanted == [[0], [1], [1]]


def test_what_is_being_written_goes_before_what_is_being_read() -> None:
    bench = Bench(budget=10)
    first = bench.add(5)
    bench.step()
    second = bench.add(30)
    assert bench.step() == {first: 1, second: 9}
    assert bench.step() == {first: 1, second: 9}


def test_short_prompts_are_read_beside_a_long_one() -> None:
    bench = Bench(budget=20, long_prompt=15)
    long = bench.add(100)
    short, other = bench.add(6), bench.add(6)
    assert bench.step() == {long: 10, short: 6, other: 4}
    assert bench.step() == {long: 17, short: 1, other: 2}
    assert bench.step() == {long: 18, short: 1, other: 1}


def test_a_long_prompt_moves_on_however_many_short_ones_come() -> None:
    bench = Bench(budget=20, long_prompt=15, seats=4)
    long = bench.add(100)
    for _ in range(10):
        for _ in range(4):
            bench.add(15)
        given = bench.step()
        assert given[long] >= 8
        for sequence in set(given) - {long}:
            bench.scheduler.finish(sequence, "stop")


def test_nobody_runs_without_a_seat() -> None:
    bench = Bench(seats=2)
    first, second, third = bench.add(3), bench.add(3), bench.add(3)
    assert bench.step().keys() == {first, second}
    bench.scheduler.finish(first, "stop")
    assert bench.step().keys() == {second, third}


# Drafts


def test_drafts_are_checked_in_one_step_and_what_is_wrong_is_not_kept() -> None:
    bench = Bench()
    sequence = bench.add(5)
    bench.step()
    sequence.drafts = [WRITTEN, WRITTEN, 9]
    plan = bench.scheduler.plan()
    assert plan.parts[0][1:] == (5, 4, 4)
    bench.scheduler.computed(plan, {sequence: [WRITTEN, WRITTEN, 8]})
    assert sequence.tokens[5:] == [WRITTEN, WRITTEN, WRITTEN, 8]
    assert sequence.num_computed == 8
    assert sequence.drafts == []
    bench.scheduler.check()


def test_no_draft_goes_beyond_what_was_asked_for() -> None:
    bench = Bench()
    sequence = bench.add(5, max_tokens=3)
    bench.step()
    sequence.drafts = [WRITTEN] * 8
    assert bench.scheduler.plan().num_tokens == 2


def test_drafts_take_only_what_others_leave() -> None:
    bench = Bench(seats=4, budget=6)
    sequences = [bench.add(1) for _ in range(4)]
    bench.step()
    for sequence in sequences:
        sequence.drafts = [WRITTEN] * 3
    assert bench.scheduler.plan().num_tokens == 6
    assert [len(sequence.drafts) for sequence in sequences] == [2, 0, 0, 0]


def test_nobody_is_preempted_for_drafts() -> None:
    bench = Bench(num_blocks=4)
    first, second = bench.add(4), bench.add(7, max_tokens=4)
    bench.step()
    first.drafts = [WRITTEN] * 6
    assert bench.step() == {first: 4, second: 1}
    assert bench.pool.num_available == 0
    assert bench.scheduler.stats.num_preemptions == 0


def test_drafts_leave_others_the_blocks_of_their_next_tokens() -> None:
    bench = Bench(num_blocks=5)
    first, second = bench.add(4), bench.add(8, max_tokens=4)
    bench.step()
    first.drafts = [WRITTEN] * 6
    assert bench.step() == {first: 4, second: 1}, "each begins a block, and there are two"
    assert bench.scheduler.stats.num_preemptions == 0


# Preemption


def test_the_newest_gives_way_and_comes_back_where_it_was() -> None:
    bench = Bench(num_blocks=5)
    first, second = bench.add(8), bench.add(7)
    bench.step()
    assert bench.step() == {first: 1, second: 1}
    assert bench.step() == {first: 1}
    assert second.status is Status.WAITING
    assert second.num_preemptions == 1
    assert second.tokens[7:] == [WRITTEN, WRITTEN]
    bench.scheduler.finish(first, "stop")
    assert bench.step() == {second: 9 - 8}, "its blocks were not needed by anybody else"


def test_the_worst_priority_gives_way_first() -> None:
    bench = Bench(num_blocks=5)
    other, urgent = bench.add(8), bench.add(7, priority=-1)
    for _ in range(3):
        bench.step()
    assert (other.num_preemptions, urgent.num_preemptions) == (1, 0)


def test_what_moved_to_the_host_comes_back_instead_of_being_computed_again() -> None:
    bench = Bench(num_blocks=5, num_host_blocks=10)
    first, second = bench.add(8, max_tokens=12), bench.add(7)
    for _ in range(12):
        bench.step()
    assert second.num_preemptions == 1
    assert bench.pool.host.num_used > 0
    bench.scheduler.finish(first, "length")
    plan = bench.scheduler.plan()
    assert [move.direction for move in plan.moves].count("in") == 2
    assert plan.parts[0][1:] == (8, 1, 1)


@pytest.mark.parametrize(("move_s", "num_fetched"), [(1.0, 2), (3.0, 0)])
def test_what_is_read_faster_than_moved_is_read_again(move_s: float, num_fetched: int) -> None:
    bench = Bench(num_blocks=5, num_host_blocks=10)
    first, _ = bench.add(8, max_tokens=12), bench.add(7)
    for _ in range(12):
        bench.step()
    bench.scheduler.finish(first, "length")
    bench.pool.pace.note_moves(1, move_s)
    bench.pool.pace.note_reading(bench.pool.block_size, 2.0)
    plan = bench.scheduler.plan()
    assert [move.direction for move in plan.moves].count("in") == num_fetched
    assert plan.parts[0].start == 4 * num_fetched
    assert plan.parts[0].num_tokens == 9 - 4 * num_fetched


def test_where_moves_do_not_pay_nothing_is_moved_to_the_host() -> None:
    bench = Bench(num_blocks=5, num_host_blocks=10)
    bench.pool.pace.note_moves(1, 3.0)
    bench.pool.pace.note_reading(bench.pool.block_size, 2.0)
    bench.add(8, max_tokens=12)
    second = bench.add(7)
    for _ in range(12):
        bench.step()
    assert second.num_preemptions == 1
    assert bench.pool.host.num_used == 0


def test_nobody_takes_the_place_of_one_that_was_just_preempted() -> None:
    bench = Bench(num_blocks=5)
    bench.add(8)
    bench.add(7)
    bench.step()
    bench.step()
    third = bench.add(1)
    bench.step()
    assert bench.scheduler.stats.num_preemptions == 1
    assert third.status is Status.WAITING


def test_the_first_that_finds_no_room_lets_nobody_pass() -> None:
    bench = Bench(num_blocks=5)
    bench.add(11)
    bench.step()
    big, small = bench.add(10), bench.add(1)
    bench.step()
    assert big.status is small.status is Status.WAITING


def test_an_admission_leaves_room_for_those_that_run_to_grow() -> None:
    bench = Bench(num_blocks=10, watermark=0.3)
    bench.add(16)
    second, third = bench.add(12), bench.add(1)
    bench.step()
    assert second.status is Status.RUNNING
    assert third.status is Status.WAITING


# Priorities


def test_better_priorities_go_first_and_equal_ones_by_arrival() -> None:
    bench = Bench(seats=2)
    bench.add(1, priority=2)
    second, third = bench.add(1, priority=1), bench.add(1, priority=1)
    assert list(bench.step()) == [second, third]


def test_a_better_priority_makes_the_last_one_give_way() -> None:
    bench = Bench(seats=2)
    first, second = bench.add(1), bench.add(1)
    bench.step()
    urgent = bench.add(1, priority=-1)
    assert bench.step() == {first: 1, urgent: 1}
    assert second.num_preemptions == 1
    equal = bench.add(1)
    assert equal not in bench.step()


def test_nobody_gives_way_in_vain() -> None:
    bench = Bench(num_blocks=10)
    equal, last = bench.add(24), bench.add(4, priority=1)
    bench.step()
    bench.add(20)
    assert bench.step() == {equal: 1, last: 1}


def test_nobody_gives_way_where_a_reserve_or_shared_blocks_are_in_the_way() -> None:
    bench = Bench(num_blocks=10, watermark=0.2)
    equal, last = bench.add(13), bench.add(9, priority=1)
    bench.step()
    bench.add(18)
    assert bench.step() == {equal: 1, last: 1}, "two blocks are to be left for the equal one"

    bench = Bench(num_blocks=6)
    equal = bench.add([*range(12), 1])
    bench.step()
    last = bench.add([*range(12), 2], priority=1)
    bench.step()
    bench.add(12)
    assert bench.step() == {equal: 1, last: 1}, "three blocks of the last one are the equal one's"


# Prefixes


def test_a_prompt_that_was_read_before_is_not_read_again() -> None:
    bench = Bench()
    prompt = list(range(30))
    bench.add(prompt)
    bench.step()
    second = bench.add([*prompt, 99])
    assert bench.step()[second] == 3
    assert second.num_cached == 28
    stats = bench.scheduler.stats
    assert (stats.prefix_queries, stats.prefix_hits) == (61, 28)


def test_a_conversation_goes_on_from_what_was_written() -> None:
    bench = Bench()
    first = bench.add([1, 2, 3])
    for _ in range(6):
        bench.step()
    bench.scheduler.finish(first, "stop")
    assert bench.step() == {}
    second = bench.add([*first.tokens, 5])
    assert second.num_prompt == 10
    assert bench.step() == {second: 2}


def test_who_asks_the_same_at_the_same_time_waits_for_the_first() -> None:
    bench = Bench(budget=20)
    prompt = list(range(30))
    first, *others = [bench.add(prompt) for _ in range(3)]
    assert bench.step() == {first: 20}
    assert bench.step() == {first: 10}
    assert bench.step() == {first: 1, others[0]: 2, others[1]: 2}


def test_who_waits_for_the_first_goes_on_when_it_is_aborted() -> None:
    bench = Bench(budget=20)
    first, second = bench.add(list(range(30))), bench.add(list(range(30)))
    bench.step()
    bench.scheduler.finish(first, "abort")
    assert bench.step() == {second: 10}


def test_tokens_that_are_computed_again_were_not_cached() -> None:
    bench = Bench(num_blocks=5)
    first, second = bench.add(8), bench.add(7)
    while second.num_preemptions == 0:
        bench.step()
    bench.scheduler.finish(first, "stop")
    bench.step()
    assert second.num_computed > 0, "some of it was found where it was left"
    assert second.num_cached == 0
    assert bench.scheduler.stats.prefix_hits == 0


# What is embedded


def test_what_is_embedded_is_read_whole_and_needs_no_blocks() -> None:
    bench = Bench(budget=10, num_blocks=5)
    writing = bench.add(5)
    bench.step()
    embedded = bench.add(9, kind="embed")
    assert bench.step() == {writing: 1, embedded: 9}
    assert embedded.blocks == []


def test_a_text_as_long_as_a_step_lets_others_pass_and_begins_the_next_one() -> None:
    bench = Bench(budget=10)
    writing = bench.add(5)
    bench.step()
    embedded = bench.add(10, kind="embed")
    later = bench.add(1)
    assert bench.step() == {writing: 1, later: 1}
    assert bench.step() == {embedded: 10}
    bench.scheduler.finish(embedded, "stop")
    assert bench.step() == {writing: 1, later: 1}


def test_texts_as_long_as_a_step_take_turns_with_what_is_written() -> None:
    bench = Bench(budget=10)
    writing = bench.add(5)
    bench.step()
    embedded = [bench.add(10, kind="embed") for _ in range(3)]
    turns = []
    for _ in range(6):
        given = bench.step()
        turns.append(list(given))
        for sequence in given.keys() & set(embedded):
            bench.scheduler.finish(sequence, "stop")
    assert turns == [[writing], embedded[:1], [writing], embedded[1:2], [writing], embedded[2:]]


def test_a_text_that_begins_a_step_leaves_the_rest_of_it() -> None:
    bench = Bench(budget=10)
    reading = bench.add(100)
    bench.step()
    embedded = bench.add(6, kind="embed")
    assert bench.step() == {reading: 10}
    assert bench.step() == {embedded: 6, reading: 4}


def test_those_who_are_let_past_leave_a_seat() -> None:
    bench = Bench(budget=10, seats=2)
    writing = bench.add(5)
    bench.step()
    embedded = bench.add(10, kind="embed")
    later = bench.add(1)
    assert bench.step() == {writing: 1}
    assert bench.step() == {embedded: 10}
    bench.scheduler.finish(embedded, "stop")
    assert bench.step() == {writing: 1, later: 1}


def test_a_text_that_was_let_wait_may_be_aborted() -> None:
    bench = Bench(budget=10)
    writing = bench.add(5)
    bench.step()
    embedded = bench.add(10, kind="embed")
    bench.step()
    bench.scheduler.finish(embedded, "abort")
    assert bench.step() == {writing: 1}


def test_who_is_preempted_is_not_the_text_that_began_the_step() -> None:
    bench = Bench(budget=10, num_blocks=5)
    first, second = bench.add(4), bench.add(4)
    bench.step()
    embedded = bench.add(9, kind="embed")
    grown = 0
    while second.num_preemptions == 0 and grown < 20:
        grown += 1
        if embedded in bench.step():
            bench.scheduler.finish(embedded, "stop")
            embedded = bench.add(9, kind="embed")
    assert first.num_preemptions == 0 and second.num_preemptions == 1
    assert embedded.num_preemptions == 0


# Ends


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_sequence_ends_once_whatever_it_is_doing(steps: int) -> None:
    bench = Bench(budget=10)
    sequence = bench.add(25)
    for _ in range(steps):
        bench.step()
    assert bench.scheduler.finish(sequence, "abort")
    assert not bench.scheduler.finish(sequence, "stop")
    assert sequence.finish_reason == "abort"
    assert not bench.scheduler.has_work
    assert bench.pool.num_used == 0


def test_what_is_aborted_during_a_step_gets_nothing_of_it() -> None:
    bench = Bench()
    sequence = bench.add(8)
    plan = bench.scheduler.plan()
    bench.scheduler.finish(sequence, "abort")
    bench.scheduler.computed(plan, written(plan))
    assert sequence.num_generated == 0
    assert bench.pool.match(Sequence(sequence.request, 2, list(sequence.tokens))) == []


def test_a_step_that_failed_ends_its_sequences_and_no_other() -> None:
    bench = Bench(seats=1)
    first, second = bench.add(8), bench.add(8)
    bench.scheduler.abandon(bench.scheduler.plan())
    assert first.finish_reason == "error"
    assert bench.step() == {second: 8}


# What is refused, and what waits


def test_what_can_never_fit_is_refused_with_the_reason() -> None:
    bench = Bench(num_blocks=4, max_model_len=20, budget=12)
    with pytest.raises(ValueError, match="no tokens"):
        bench.add([])
    with pytest.raises(ValueError, match="11 tokens and max_tokens 10 exceed the 20 tokens"):
        bench.add(11)
    with pytest.raises(ValueError, match=r"need more than the 16 tokens .* cache has room for"):
        bench.add(8)
    with pytest.raises(ValueError, match=r"a step of 12; .*max_num_batched_tokens"):
        bench.add(13, kind="embed")
    bench.add(7)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 63),
        ("long_prompt_tokens", 0),
        ("watermark", 1.0),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {value}"):
        SchedulerConfig(**{setting: value})  # type: ignore[arg-type]


def test_who_waits_for_its_grammar_lets_others_pass() -> None:
    bench = Bench(seats=1)
    strict = bench.add(3, grammar=Grammar(kind="json_object"))
    other = bench.add(3)
    assert bench.step() == {other: 3}
    bench.scheduler.finish(other, "stop")
    assert bench.step() == {}
    strict.grammar = cast(GrammarState, object())
    assert bench.step() == {strict: 3}


def test_statistics_count_what_there_is() -> None:
    bench = Bench(num_blocks=10, seats=2)
    for _ in range(3):
        bench.add(8)
    bench.step()
    stats = bench.scheduler.stats
    assert (stats.num_running, stats.num_waiting, stats.kv_usage) == (2, 1, 0.4)
