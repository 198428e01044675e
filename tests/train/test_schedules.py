from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.train.schedules import Schedule, ScheduleConfig


def factors(steps: int, **settings: Any) -> list[float]:
    schedule = Schedule(ScheduleConfig(**settings), steps=steps)
    return [schedule.factor(step) for step in range(steps)]


def test_a_constant_rate_stays() -> None:
    assert set(factors(10, name="constant")) == {1.0}


def test_a_warm_up_rises_evenly_and_not_from_zero() -> None:
    assert factors(6, name="constant", warmup_steps=3) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_evenly_from_the_warm_up_on() -> None:
    found = factors(6, name="linear", warmup_steps=2, final=0.0)
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])


def test_cosine_is_halfway_in_the_middle() -> None:
    schedule = Schedule(ScheduleConfig(name="cosine", final=0.2), steps=100)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(50) == pytest.approx(0.6)
    assert schedule.factor(100) == pytest.approx(0.2)


def test_wsd_stays_until_it_decays() -> None:
    found = factors(10, name="wsd", warmup_steps=1, decay_steps=4, final=0.0)
    assert found[:7] == [0.5, *[1.0] * 6]
    assert found[7:] == pytest.approx([1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])


def test_wsd_decays_in_the_last_fifth_unless_told_otherwise() -> None:
    found = factors(100, name="wsd")
    assert found[80] == 1.0 > found[81]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
@given(steps=st.integers(5, 200), share=st.floats(0, 0.5))
def test_a_rate_rises_once_falls_once_and_stays_at_its_end(
    name: Any, steps: int, share: float
) -> None:
    warmup = int(steps * share)
    schedule = Schedule(ScheduleConfig(name=name, warmup_steps=warmup), steps=steps)
    found = [schedule.factor(step) for step in range(steps + 20)]
    assert all(0 < factor <= 1 for factor in found)
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert len(set(found[steps:])) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cosin"}, "unknown schedule 'cosin'; choose from constant, linear, cosine, wsd"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"final": 1.5}, "final is 1.5; it is a share of lr"),
        ({"name": "constant", "final": 0.5}, "name is constant; leave it out"),
        ({"name": "wsd", "decay_steps": 0}, "decay_steps is 0; it must be at least 1"),
        ({"name": "cosine", "decay_steps": 5}, "decay_steps is a setting of wsd"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**settings)


def test_a_schedule_that_does_not_fit_into_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps 20 do not fit into 10 steps"):
        Schedule(ScheduleConfig(warmup_steps=20), steps=10)
    with pytest.raises(ValueError, match="warmup_steps 5 and decay_steps 6 do not fit into 10"):
        Schedule(ScheduleConfig(name="wsd", warmup_steps=5, decay_steps=6), steps=10)
