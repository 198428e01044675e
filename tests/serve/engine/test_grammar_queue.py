"""Those who wait for a grammar wait for as long as is of use, and the end of an engine for none."""

import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.doubles import tiny_llama
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.grammar import CompiledGrammar, GrammarCompiler, GrammarError
from pharos.serve.engine.grammar_queue import GrammarQueue
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.request import Grammar, Output, Refusal, Request, Sequence
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig

PATIENCE_S = 120.0
LIMIT_S = 10.0
ENDLESS = Grammar(kind="regex", text="endless")
DIGITS = Grammar(kind="regex", text="[0-9]{4}")
BROKEN = Grammar(kind="regex", text="(")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    config = TokenizerConfig(vocab_size=300, special_tokens=("<|im_end|>",))
    return train_tokenizer(["0123 4567 the keeper"] * 3, config)


class Slow(GrammarCompiler):
    """Is never done with one grammar before it `may_end`."""

    def __init__(self, tokenizer: Tokenizer, **values: Any) -> None:
        super().__init__(tokenizer, **{"limit_s": LIMIT_S} | values)
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        if grammar == ENDLESS:
            self.has_begun.set()
            self.may_end.wait()
        return super()._compile(grammar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.may_end.set()
        self.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slow(tokenizer: Tokenizer) -> Iterator[Slow]:
    with Slow(tokenizer) as compiler:
        yield compiler


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waiting_for(grammar: Grammar, number: int = 0) -> Sequence:
    return Sequence(Request(id=str(number), prompt=[1], grammar=grammar), number, [1])


def test_a_grammar_that_takes_long_holds_no_other_up(slow: Slow) -> None:
    endless = slow.compile(ENDLESS)
    slow.has_begun.wait()
    assert slow.compile(DIGITS).result(timeout=PATIENCE_S)
    assert not endless.done()


def test_who_waits_is_told_when_there_is_nothing_to_wait_for(slow: Slow, clock: Clock) -> None:
    queue = GrammarQueue(slow, clock)
    assert not queue
    assert queue.take() == []
    sequences = [waiting_for(grammar) for grammar in (DIGITS, DIGITS, BROKEN)]
    for sequence in sequences:
        assert sequence.request.grammar is not None
        queue.add(sequence, sequence.request.grammar)
    outcomes = []
    while queue:
        queue.wait(PATIENCE_S)
        outcomes += queue.take()
    found = {id(outcome.sequence): outcome.compiled for outcome in outcomes}
    first, second, refused = (found[id(sequence)] for sequence in sequences)
    assert first is second and isinstance(first, CompiledGrammar), "it was compiled once"
    assert isinstance(refused, GrammarError) and "regex" in str(refused)


def test_nobody_waits_for_a_grammar_longer_than_the_limit(slow: Slow, clock: Clock) -> None:
    queue = GrammarQueue(slow, clock)
    first, second, later = (waiting_for(ENDLESS) for _ in range(3))
    queue.add(first, ENDLESS)
    clock.now = 9.0
    queue.add(second, ENDLESS)
    assert queue.take() == []
    clock.now = 10.0
    ((sequence, error),) = queue.take()
    assert sequence is first
    assert "this regex cannot be enforced: it was not compiled in 10 seconds" in str(error)
    clock.now = 19.0
    assert [outcome.sequence for outcome in queue.take()] == [second]
    assert not queue
    queue.add(later, ENDLESS)
    slow.may_end.set()
    queue.wait(PATIENCE_S)
    ((sequence, compiled),) = queue.take()
    assert sequence is later
    assert isinstance(compiled, CompiledGrammar)


def test_what_nobody_waits_for_any_more_is_not_begun(tokenizer: Tokenizer, clock: Clock) -> None:
    with Slow(tokenizer, num_threads=1) as compiler:
        queue = GrammarQueue(compiler, clock)
        for grammar in (ENDLESS, DIGITS):
            queue.add(waiting_for(grammar), grammar)
        given_up = compiler.compile(DIGITS)
        compiler.has_begun.wait()
        clock.now = 100.0
        assert len(queue.take()) == 2
        assert given_up.cancelled()
        compiler.may_end.set()
        assert compiler.compile(DIGITS).result(timeout=PATIENCE_S), "who asks again is answered"


class Waiting(RuleBasedStateMachine):
    """Whoever waits gets one outcome: in time, or at the limit."""

    tokenizer: Tokenizer

    @initialize()
    def begin(self) -> None:
        self.compiler = Slow(self.tokenizer)
        self.clock = Clock()
        self.queue = GrammarQueue(self.compiler, self.clock)
        self.since: dict[int, float] = {}
        self.all: list[Sequence] = []

    @rule(grammar=st.sampled_from([ENDLESS, DIGITS, BROKEN]))
    def add(self, grammar: Grammar) -> None:
        sequence = waiting_for(grammar, len(self.all))
        self.all.append(sequence)
        self.since[sequence.arrival] = self.clock.now
        self.queue.add(sequence, grammar)

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        for sequence, compiled in self.queue.take():
            waited = self.clock.now - self.since.pop(sequence.arrival)
            assert isinstance(compiled, CompiledGrammar | GrammarError)
            if sequence.request.grammar == ENDLESS and not self.compiler.may_end.is_set():
                assert isinstance(compiled, GrammarError) and waited >= LIMIT_S
        assert all(self.clock.now - since < LIMIT_S for since in self.since.values())

    @precondition(lambda self: self.since)
    @rule()
    def the_long_one_ends(self) -> None:
        self.compiler.may_end.set()

    @invariant()
    def it_is_empty_when_nobody_waits(self) -> None:
        if hasattr(self, "queue"):
            assert bool(self.queue) == bool(self.since)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.compiler.may_end.set()
            while self.queue:
                self.queue.wait(PATIENCE_S)
                self.take()
            assert not self.since
            self.compiler.close()


def test_each_who_waits_has_one_outcome(tokenizer: Tokenizer) -> None:
    Waiting.tokenizer = tokenizer
    few = settings(max_examples=12, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(Waiting, settings=few)


# In the engine


def engine_with(compiler: GrammarCompiler, tokenizer: Tokenizer, clock: Clock) -> Engine:
    model = tiny_llama(vocab_size=tokenizer.vocab_size)
    return Engine(
        Scheduler(SchedulerConfig(), BlockPool(400, 4)),
        Runner(model, PagedKV(model.body.attention_shapes(), num_blocks=400, block_size=4)),
        tokenizer=tokenizer,
        compiler=compiler,
        clock=clock,
    )


def test_a_grammar_that_takes_too_long_refuses_its_request_and_no_other(
    tokenizer: Tokenizer, slow: Slow, clock: Clock
) -> None:
    engine = engine_with(slow, tokenizer, clock)
    for id_, grammar in (("endless", ENDLESS), ("digits", DIGITS)):
        engine.add(Request(id=id_, prompt=tokenizer.encode("the"), grammar=grammar))
    told: list[Output | Refusal] = []
    while not told or told[-1].request_id == "digits":
        told += engine.step()
        if told and isinstance(told[-1], Output) and told[-1].finish_reason:
            clock.now = LIMIT_S
    assert isinstance(told[-1], Refusal)
    assert "regex cannot be enforced: it was not compiled in 10 seconds" in told[-1].reason
    assert not engine.has_work
    engine.check()


def test_the_end_of_an_engine_does_not_wait_for_a_grammar(
    tokenizer: Tokenizer, slow: Slow, clock: Clock
) -> None:
    before = set(threading.enumerate())
    engine = engine_with(slow, tokenizer, clock)
    for grammar in (DIGITS, ENDLESS):
        engine.add(Request(id=grammar.text, prompt=[5], grammar=grammar))
    slow.compile(DIGITS).result(PATIENCE_S)
    slow.has_begun.wait()
    engine.close()
    (left,) = set(threading.enumerate()) - before
    assert left.daemon, "Python ends without it"
