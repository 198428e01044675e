from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.test_order import Numbers

from pharos.core.errors import TrainingError
from pharos.data.mixing import Change, Milestone, Mixture, Schedule

NAMES = ["wiki", "code", "books", "web", "mail"]
WEIGHTS = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(st.just(0.0), st.floats(0.001, 100)), min_size=1
).filter(lambda weights: sum(weights.values()) > 0)
MILESTONES = st.lists(st.tuples(st.integers(1, 300), WEIGHTS), min_size=1, max_size=4)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    at = 0
    milestones = []
    for gap, weights in draw(MILESTONES):
        milestones.append(Milestone(at=at, weights=weights))
        at += gap
    return Schedule(milestones, draw(st.sampled_from(["step", "linear"])))


def mixture(schedule: Schedule, size: int = 50, seed: int = 0) -> Mixture:
    return Mixture({name: Numbers(size) for name in schedule.names}, schedule, seed)


def asked(schedule: Schedule, name: str, num_rows: int) -> list[float]:
    """How many of the first n rows a source is to give, added up row by row."""
    totals = [0.0]
    shares = schedule.shares([name])
    starts = [milestone.at for milestone in schedule.milestones]
    for n in range(num_rows):
        i = bisect_right(starts, n) - 1
        share = shares[i]
        if schedule.change == "linear" and i + 1 < len(starts):
            share += (shares[i + 1] - share) * (n + 0.5 - starts[i]) / (starts[i + 1] - starts[i])
        totals.append(totals[-1] + share)
    return totals


@settings(max_examples=50, deadline=None)
@given(schedules())
def test_each_source_is_read_from_its_first_row_on_leaving_none_out(schedule: Schedule) -> None:
    mixed = mixture(schedule)
    read: Counter[str] = Counter()
    for number in range(400):
        name, number_there = mixed.source(number)
        assert number_there == read[name]
        read[name] += 1
    assert mixed.counts(400) == {name: read[name] for name in schedule.names}


@settings(max_examples=50, deadline=None)
@given(schedules())
def test_shares_stay_within_a_row_and_a_half_of_those_asked_for(schedule: Schedule) -> None:
    mixed = mixture(schedule)
    depth = (len(schedule.names) - 1).bit_length()
    for name in schedule.names:
        for number, share in enumerate(asked(schedule, name, 1000)):
            if number % 61 == 0:
                assert abs(mixed.counts(number)[name] - share) <= 0.501 * depth


def test_two_sources_stay_within_half_a_row() -> None:
    mixed = mixture(Schedule.constant({"wiki": 0.7, "code": 0.3}))
    assert all(abs(mixed.counts(n)["code"] - 0.3 * n) < 0.501 for n in range(5000))


def test_a_source_of_weight_zero_is_not_read() -> None:
    schedule = Schedule([Milestone(at=0, weights={"wiki": 1, "code": 0, "web": 0})])
    assert mixture(schedule).counts(10**9) == {"wiki": 10**9, "code": 0, "web": 0}


@pytest.mark.parametrize("change", ["step", "linear"])
def test_a_curriculum_brings_code_in_from_a_row_on(change: Change) -> None:
    schedule = Schedule(
        [
            Milestone(at=0, weights={"wiki": 9, "books": 1}),
            Milestone(at=1000, weights={"wiki": 9, "books": 1}),
            Milestone(at=2000, weights={"wiki": 60, "books": 10, "code": 30}),
        ],
        change,
    )
    code = [mixture(schedule).counts(n)["code"] for n in (1000, 2000, 3000)]
    assert code == ([0, 0, 300] if change == "step" else [0, 150, 450])


def test_far_into_a_run_a_row_is_found_without_those_before_it() -> None:
    weights: Mapping[str, float] = {"wiki": 3, "code": 2, "books": 1, "web": 0.1, "mail": 1e-4}
    mixed = mixture(
        Schedule(
            [Milestone(at=0, weights={"wiki": 1}), Milestone(at=10**7, weights=weights)], "linear"
        )
    )
    start = 10**7 - 50
    counts = mixed.counts(start)
    for number in range(start, start + 100):
        name, number_there = mixed.source(number)
        assert number_there == counts[name]
        counts[name] += 1
    assert sum(mixed.counts(10**12).values()) == 10**12


def test_a_source_is_shuffled_by_itself_and_gone_through_epoch_by_epoch() -> None:
    mixed = mixture(Schedule.constant({"wiki": 1, "code": 1}), size=10)
    rows = [mixed[n] for n in range(40)]
    for name in ("wiki", "code"):
        own = [row for n, row in enumerate(rows) if mixed.source(n)[0] == name]
        assert sorted(int(row["index"]) for row in own[:10]) == list(range(10))
        assert [int(row["epoch"]) for row in own] == [0] * 10 + [1] * 10


def test_the_seed_changes_the_rows_and_not_the_sources() -> None:
    schedule = Schedule.constant({"wiki": 2, "code": 1})
    a, b = mixture(schedule, seed=1), mixture(schedule, seed=2)
    assert [a.source(n) for n in range(50)] == [b.source(n) for n in range(50)]
    assert [a[n]["index"] for n in range(50)] != [b[n]["index"] for n in range(50)]


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(TrainingError, match="weight of 'wiki' is -1"):
        Milestone(at=0, weights={"wiki": -1})
    with pytest.raises(TrainingError, match="all weights from row 5 on are 0"):
        Milestone(at=5, weights={"wiki": 0})
    with pytest.raises(TrainingError, match="begin at the rows \\[5\\]"):
        Schedule([Milestone(at=5, weights={"wiki": 1})])
    with pytest.raises(TrainingError, match="'kode', which is no source; there are code"):
        Mixture({"code": Numbers(3)}, Schedule.constant({"kode": 1}), 0)
    with pytest.raises(TrainingError, match="'web' has no weight"):
        Mixture({"code": Numbers(3), "web": Numbers(3)}, Schedule.constant({"code": 1}), 0)
