"""A step gives away its budget, and nothing beyond it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.serve.engine.plan import Part
from pharos.serve.engine.request import Kind, Request, Sequence
from pharos.serve.engine.step import Step


def sequence_of(
    num_tokens: int,
    *,
    num_computed: int = 0,
    num_drafts: int = 0,
    priority: int = 0,
    kind: Kind = "generate",
) -> Sequence:
    tokens = list(range(num_tokens))
    request = Request(id="a", prompt=tokens, priority=priority, kind=kind)
    return Sequence(request, 0, tokens, num_computed=num_computed, drafts=[7] * num_drafts)


GRANTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=12)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    budget=st.integers(0, 30),
    grants=GRANTS,
)
def test_what_is_given_is_of_the_budget_and_of_what_each_has_left(
    lengths: list[int], budget: int, grants: list[tuple[int, int]]
) -> None:
    step, sequences = Step(budget), [sequence_of(length) for length in lengths]
    given_to = [0] * len(sequences)
    for number, most in grants:
        left = lengths[number] - given_to[number]
        expected = min(most, left, step.budget)
        assert step.grant(sequences[number], most) == expected
        given_to[number] += expected
    assert step.budget == budget - sum(given_to)
    assert {s: part.num_tokens for s, part in step.parts.items()} == {
        s: count for s, count in zip(sequences, given_to, strict=True) if count
    }


def test_logits_are_wanted_after_the_last_token_and_each_draft() -> None:
    step = Step(100)
    sequence = sequence_of(5, num_computed=4, num_drafts=2)
    assert step.grant(sequence, 100) == 3
    assert step.parts[sequence] == Part(sequence, start=4, num_tokens=3, num_logits=3)


def test_a_part_that_grows_stays_one_and_asks_for_logits_at_its_end() -> None:
    step, sequence = Step(100), sequence_of(9, num_computed=2)
    step.grant(sequence, 4)
    assert step.parts[sequence] == Part(sequence, start=2, num_tokens=4, num_logits=0)
    assert step.wants_more(sequence)
    step.grant(sequence, 4)
    assert step.parts[sequence] == Part(sequence, start=2, num_tokens=7, num_logits=1)
    assert not step.wants_more(sequence)


def test_what_is_embedded_has_no_logits() -> None:
    step, sequence = Step(100), sequence_of(3, kind="embed")
    step.grant(sequence, 100)
    assert step.parts[sequence].num_logits == 0


def test_who_has_nothing_yet_wants_more_and_nothing_given_is_no_part() -> None:
    step, sequence = Step(0), sequence_of(3)
    assert step.wants_more(sequence)
    assert step.grant(sequence, 3) == 0
    assert step.parts == {}


def test_only_who_goes_before_every_victim_takes_a_place() -> None:
    step = Step(100)
    assert step.may_admit(sequence_of(1, priority=9)), "nobody gave way"
    for priority in (2, 1, 3):
        step.note_victim(sequence_of(1, priority=priority))
    assert [step.may_admit(sequence_of(1, priority=p)) for p in range(4)] == [True] + [False] * 3


def test_who_is_served_does_not_give_way() -> None:
    step, sequence = Step(100), sequence_of(1)
    step.grant(sequence, 1)
    with pytest.raises(AssertionError, match="served before those that it gives way to"):
        step.note_victim(sequence)
