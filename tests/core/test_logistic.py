import pytest

from pharos.core.logistic import Logistic, log_odds, sigmoid


def test_signs_are_weighed_into_a_probability() -> None:
    model = Logistic(weights={"clear": 2.0, "far": -1.0}, bias=0.5)
    signs = {"clear": 1.0, "far": 0.5, "unused": 9.0}
    assert model.log_odds(signs) == pytest.approx(2.0)
    assert model.probability(signs) == pytest.approx(0.880797, abs=1e-6)
    with pytest.raises(KeyError):
        model.probability({"clear": 1.0})


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.999])
def test_log_odds_and_probability_are_each_others_inverse(probability: float) -> None:
    assert sigmoid(log_odds(probability)) == pytest.approx(probability)


def test_certainty_is_bounded() -> None:
    assert log_odds(0.0, least=0.01) == pytest.approx(-4.59512)
    assert log_odds(1.0, least=0.01) == pytest.approx(4.59512)
    assert sigmoid(1e9) == sigmoid(30.0) < 1.0
    assert sigmoid(-1e9) == sigmoid(-30.0) > 0.0
