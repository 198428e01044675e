"""The arithmetic of PPO and GRPO, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pharos.train.rl.advantages import (
    generalized_advantages,
    group_advantages,
    is_in_equal_group,
    kl_estimates,
    whitened,
)
from pharos.train.rl.kl_control import KLConfig, KLController
from pharos.train.rl.losses import clipped_policy_loss, clipped_value_loss, is_clipped
from pharos.train.rl.ppo import paid_at_the_end

# Two completions: places 1 to 3, and place 2 alone; elsewhere is what must not count.
IS_SAID = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
REWARDS = torch.tensor([[9.0, 0.0, 0.0, 1.0], [9.0, 9.0, 2.0, 9.0]])
VALUES = torch.tensor([[9.0, 0.5, 0.4, 0.6], [9.0, 9.0, 0.5, 9.0]])


def test_generalized_advantages_by_hand() -> None:
    found = generalized_advantages(REWARDS, VALUES, IS_SAID, gamma=0.9, decay=0.5)
    third = 1.0 - 0.6
    second = 0.9 * 0.6 - 0.4 + 0.45 * third
    first = 0.9 * 0.4 - 0.5 + 0.45 * second
    expected = torch.tensor([[0, first, second, third], [0, 0, 1.5, 0]])
    torch.testing.assert_close(found, expected)


def test_with_a_decay_of_1_advantages_are_returns_less_values() -> None:
    found = generalized_advantages(REWARDS, VALUES, IS_SAID, gamma=1.0, decay=1.0)
    expected = torch.tensor([[0, 1 - 0.5, 1 - 0.4, 1 - 0.6], [0, 0, 2 - 0.5, 0]])
    torch.testing.assert_close(found, expected)


def test_what_is_said_is_whitened_and_the_rest_is_zero() -> None:
    found = whitened(VALUES, IS_SAID)
    torch.testing.assert_close(found[IS_SAID].mean(), torch.tensor(0.0))
    torch.testing.assert_close(found[IS_SAID].std(correction=0), torch.tensor(1.0))
    assert not found[~IS_SAID].any()


def test_equal_advantages_are_whitened_to_nothing() -> None:
    assert not whitened(torch.full((1, 3), 2.0), torch.ones(1, 3, dtype=torch.bool)).any()


def test_the_score_is_paid_at_the_last_token() -> None:
    found = paid_at_the_end(torch.tensor([1.0, -2.0]), IS_SAID)
    assert found.tolist() == [[0, 0, 0, 1], [0, 0, -2, 0]]


def test_groups_are_compared_with_themselves() -> None:
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    found = group_advantages(scores, 4, divide_by_std=False)
    assert found.tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]
    divided = group_advantages(scores, 4, divide_by_std=True)
    torch.testing.assert_close(divided, found / 0.5)  # of (1, 0, 0, 0) the deviation is 1/2
    assert is_in_equal_group(scores, 4).tolist() == [False] * 4 + [True] * 4


@given(st.floats(-1e3, 1e3, width=32), st.integers(2, 9))
def test_equal_scores_teach_nothing_whatever_they_are(score: float, size: int) -> None:
    scores = torch.full((size,), score)
    assert not group_advantages(scores, size, divide_by_std=True).any()
    assert is_in_equal_group(scores, size).all()


def test_both_estimators_have_the_mean_of_the_divergence() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = float((policy * (policy / reference).log()).sum())
    for estimator in ("k1", "k3"):
        estimates = kl_estimates(policy.log(), reference.log(), estimator)  # type: ignore[arg-type]
        assert float((policy * estimates).sum()) == pytest.approx(exact, rel=1e-5)
    assert kl_estimates(policy.log(), reference.log(), "k1").min() < 0
    assert kl_estimates(policy.log(), reference.log(), "k3").min() >= 0


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_k3_is_never_negative(a: float, b: float) -> None:
    tensors = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    assert float(kl_estimates(*tensors, "k3")) >= -1e-12


def test_the_policy_loss_is_clipped_only_where_there_is_nothing_to_gain() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    clips = {"clip_low": 0.2, "clip_high": 0.28}
    losses = clipped_policy_loss(ratio, advantage, **clips)
    assert losses.tolist() == pytest.approx([-2.56, 3.0, -1.0, 1.6, -1.1])
    assert is_clipped(ratio, advantage, **clips).tolist() == [True, False, False, True, False]


def test_the_policy_gradient_at_ratio_1_is_that_of_reinforce() -> None:
    log_prob = torch.tensor([-0.3, -2.0], requires_grad=True)
    advantage = torch.tensor([1.5, -0.5])
    ratio = (log_prob - log_prob.detach()).exp()
    clipped_policy_loss(ratio, advantage, clip_low=0.2, clip_high=0.2).sum().backward()
    assert log_prob.grad is not None
    torch.testing.assert_close(log_prob.grad, -advantage)


def test_the_value_loss_takes_the_larger_error() -> None:
    values, old, returns = torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 1.0])
    clipped = clipped_value_loss(values, old, returns, clip=0.2)
    assert clipped.tolist() == pytest.approx([0.8**2 / 2, 0.9**2 / 2])
    plain = clipped_value_loss(values, old, returns, clip=None)
    assert plain.tolist() == pytest.approx([0.0, 0.9**2 / 2])


def test_the_coefficient_follows_the_divergence() -> None:
    controller = KLController(KLConfig(coefficient=0.1, target=4.0, horizon=100))
    controller.update(8.0, 50)  # twice the target: believed to be a fifth too much
    assert controller.coefficient == pytest.approx(0.1 * 1.1)
    controller.update(3.6, 50)  # a tenth too little
    assert controller.coefficient == pytest.approx(0.1 * 1.1 * 0.95)
    other = KLController(KLConfig(coefficient=0.7, target=1.0))
    other.load_state_dict(controller.state_dict())
    assert other.coefficient == controller.coefficient


def test_a_fixed_coefficient_stays() -> None:
    controller = KLController(KLConfig(coefficient=0.1))
    controller.update(100.0, 1000)
    assert controller.coefficient == 0.1
    assert math.isfinite(controller.coefficient)
