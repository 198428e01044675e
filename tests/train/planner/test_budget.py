import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.train.planner.budget import Budget, Given, Rates, plan_budget
from pharos.train.planner.scaling import REFIT

RATES = Rates(flops=312e12, mfu=0.4, price=2.0)


def test_gpt_3_took_the_compute_that_was_published() -> None:
    budget = plan_budget(Given(params=174.6e9, tokens=300e9), RATES)
    assert budget.compute == pytest.approx(3.14e23, rel=2e-3)


def test_chinchilla_took_the_compute_of_gopher() -> None:
    budget = plan_budget(Given(params=70e9, tokens=1.4e12), RATES)
    assert budget.compute == pytest.approx(5.76e23, rel=0.025)


@settings(deadline=None)
@given(compute=st.floats(1e15, 1e26))
def test_every_way_to_say_the_size_leads_to_the_same_run(compute: float) -> None:
    budget = plan_budget(Given(compute=compute), RATES)
    for again in (
        Given(money=budget.money),
        Given(gpus=8, days=budget.gpu_hours / 8 / 24),
        Given(params=budget.params, tokens=budget.tokens),
        Given(params=budget.params),
        Given(tokens=budget.tokens),
        Given(compute=compute, params=budget.params),
        Given(compute=compute, tokens=budget.tokens),
        Given(money=budget.money, params=budget.params),
    ):
        assert_same(plan_budget(again, RATES), budget)


def assert_same(one: Budget, other: Budget) -> None:
    for name in ("compute", "params", "tokens", "gpu_hours", "money"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6), name


def test_what_is_open_is_left_to_the_law() -> None:
    optimum = REFIT.optimum(1e21)
    budget = plan_budget(Given(compute=1e21), RATES)
    assert (budget.params, budget.tokens) == (optimum.parameters, optimum.tokens)


@pytest.mark.parametrize(
    ("known", "keys"),
    [
        (Given(compute=1e21, money=1e4), ["compute", "money"]),
        (Given(compute=1e21, gpus=8, days=3), ["compute", "gpus or days"]),
        (Given(params=1e9, tokens=1e10, money=1e4), ["money", "params or tokens"]),
        (Given(params=1e9, tokens=1e10, gpus=8, days=3), ["gpus or days", "params or tokens"]),
    ],
)
def test_a_size_said_twice_is_refused_with_what_to_leave_out(known: Given, keys: list[str]) -> None:
    with pytest.raises(ValueError, match=f"given 2 times.*leave out {', or '.join(keys)}"):
        plan_budget(known, RATES)


@pytest.mark.parametrize("known", [Given(), Given(gpus=8), Given(days=3)])
def test_too_little_is_refused_with_what_to_add(known: Given) -> None:
    with pytest.raises(ValueError, match="give compute, money, params, tokens, or gpus with days"):
        plan_budget(known, RATES)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_value_that_is_no_amount_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"tokens is .*; it must be a number above 0"):
        Given(tokens=value)


def test_rates_are_within_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"mfu is 40; .* above 0, at most 1"):
        Rates(flops=1e15, mfu=40, price=1)
    with pytest.raises(ValueError, match="price is 0"):
        Rates(flops=1e15, mfu=0.4, price=0)
