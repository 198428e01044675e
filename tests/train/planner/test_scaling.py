import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.train.planner.scaling import (
    HOFFMANN,
    LAWS,
    REFIT,
    ScalingLaw,
    comparison,
    kaplan,
    law_named,
    rule_of_twenty,
)

CHINCHILLA = 5.76e23
# compute, then parameters, tokens, loss by each law
TABLE = [
    (1e18, HOFFMANN, 80.6e6, 2.07e9, 3.535),
    (1e18, REFIT, 80.5e6, 2.07e9, 3.491),
    (1e19, HOFFMANN, 228e6, 7.31e9, 2.986),
    (1e19, REFIT, 262e6, 6.36e9, 2.927),
    (1e20, HOFFMANN, 645e6, 25.9e9, 2.600),
    (1e20, REFIT, 854e6, 19.5e9, 2.553),
    (CHINCHILLA, HOFFMANN, 32.2e9, 2.98e12, 1.931),
    (CHINCHILLA, REFIT, 72.3e9, 1.33e12, 1.974),
]
computes = st.floats(1e15, 1e27)


@pytest.mark.parametrize(("compute", "law", "parameters", "tokens", "loss"), TABLE)
def test_the_optimum_is_that_of_the_constants(
    compute: float, law: ScalingLaw, parameters: float, tokens: float, loss: float
) -> None:
    optimum = law.optimum(compute)
    assert optimum.parameters == pytest.approx(parameters, rel=3e-3)
    assert optimum.tokens == pytest.approx(tokens, rel=3e-3)
    assert optimum.loss == pytest.approx(loss, abs=6e-4)


def test_the_printed_constants_contradict_their_paper_and_the_refit_does_not() -> None:
    printed, refit = HOFFMANN.optimum(CHINCHILLA), REFIT.optimum(CHINCHILLA)
    assert printed.tokens / printed.parameters == pytest.approx(93, abs=1)
    assert refit.tokens / refit.parameters == pytest.approx(18, abs=1)
    assert pytest.approx(0.452, abs=1e-3) == HOFFMANN.exponent
    assert pytest.approx(0.513, abs=1e-3) == REFIT.exponent


def test_twenty_tokens_a_parameter_is_chinchilla() -> None:
    optimum = rule_of_twenty(6 * 70e9 * 1.4e12)
    assert optimum.parameters == pytest.approx(70e9)
    assert optimum.tokens == pytest.approx(1.4e12)


def test_kaplan_spends_compute_on_parameters() -> None:
    small, large = kaplan(1e20), kaplan(1e21)
    assert large.parameters / small.parameters == pytest.approx(10**0.73)
    assert 6 * large.parameters * large.tokens == pytest.approx(1e21)


@settings(deadline=None)
@given(compute=computes, nudge=st.floats(0.5, 2))
def test_no_other_split_of_the_same_compute_has_a_lower_loss(compute: float, nudge: float) -> None:
    for law in LAWS:
        optimum = law.optimum(compute)
        assert 6 * optimum.parameters * optimum.tokens == pytest.approx(compute)
        other = law.loss(optimum.parameters * nudge, optimum.tokens / nudge)
        assert optimum.loss is not None and other >= optimum.loss - 1e-12


@settings(deadline=None)
@given(compute=computes)
def test_tokens_for_a_size_and_size_for_tokens_meet_at_the_optimum(compute: float) -> None:
    for law in LAWS:
        optimum = law.optimum(compute)
        assert law.tokens_for(optimum.parameters) == pytest.approx(optimum.tokens)
        assert law.parameters_for(optimum.tokens) == pytest.approx(optimum.parameters)


def test_all_laws_are_shown_and_the_one_planned_with_is_first() -> None:
    assert list(comparison(1e20)) == ["refit", "hoffmann", "20 tokens/param", "kaplan"]
    assert next(iter(comparison(1e20, HOFFMANN))) == "hoffmann"


def test_an_unknown_law_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown law 'chinchilla'; choose from refit, hoffmann"):
        law_named("chinchilla")


def test_a_law_by_which_more_does_not_help_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beta = -0\.1; it must be above 0"):
        ScalingLaw(name="odd", irreducible=1, A=1, B=1, alpha=0.3, beta=-0.1)
