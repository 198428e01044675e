"""The two objectives by hand, and that they raise a reward."""

from typing import Any

import numpy as np
import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.train.objective import IGNORED
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.reference import Reference
from pharos.train.rl.grpo import GRPO, GRPOConfig
from pharos.train.rl.kl_control import KLConfig
from pharos.train.rl.ppo import PPO, PPOConfig

VOCABULARY = Vocabulary(size=12, ids={"pad": 0, "eos": 1})


def columns(**changes: Any) -> dict[str, torch.Tensor]:
    """Two prompts of one token, two completions each: of 1, 2, 3 and 1 tokens."""
    lengths = torch.tensor([1, 2, 3, 1])
    is_said = torch.arange(3) < lengths[:, None]
    usual = {
        "ids": torch.full((4, 3), 5),
        "labels": torch.where(is_said, 5, IGNORED),
        "old_log_probs": torch.where(is_said, -1.0, 0.0),
        "sampled_log_probs": torch.where(is_said, -1.0, 0.0),
        "reference_log_probs": torch.where(is_said, -1.5, 0.0),
        "old_values": torch.where(is_said, 0.25, 9.0),
        "score": torch.tensor([1.0, 0.0, 1.0, 0.0]),
        "truncated": torch.tensor([False, False, False, True]),
    }
    return {**usual, **changes}


# -- PPO


def test_rewards_pay_for_the_distance_and_for_a_missing_eos() -> None:
    config = PPOConfig(
        kl=KLConfig(coefficient=0.1), gamma=1.0, decay=1.0, whiten=False, missing_eos_penalty=2.0
    )
    finished = PPO(config, Reference()).finish(columns())
    # The returns of a completion's first token are the whole of what it was paid.
    paid = [1 - 0.1 * 0.5, 0 - 0.1 * 1.0, 1 - 0.1 * 1.5, 0 - 2 - 0.1 * 0.5]
    assert finished["returns"][:, 0].tolist() == pytest.approx(paid)
    assert finished["advantages"][:, 0].tolist() == pytest.approx([p - 0.25 for p in paid])
    assert finished["kl"].tolist() == pytest.approx([0.5, 1.0, 1.5, 0.5])
    assert finished["returns"][0, 1:].tolist() == [0, 0]


def test_the_coefficient_of_a_rollout_is_from_those_before_it() -> None:
    objective = PPO(PPOConfig(kl=KLConfig(coefficient=0.1, target=0.4, horizon=40)), Reference())
    first, second = objective.finish(columns()), objective.finish(columns())
    assert first["kl_coefficient"].tolist() == pytest.approx([0.1] * 4)
    assert second["kl_coefficient"].tolist() == pytest.approx([0.1 * 1.02] * 4)


def test_k3_makes_the_distance_a_cost_of_every_token() -> None:
    finished = PPO(PPOConfig(kl_estimator="k3"), Reference()).finish(columns())
    assert finished["kl"][0].item() == pytest.approx(np.exp(-0.5) - 1 + 0.5)


# -- GRPO: two groups, whose advantages are 1/2 and -1/2 without division


class Spoken:
    """Stands for the policy: what its log-probabilities are now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log_probs: torch.Tensor) -> None:
        self.log_probs = log_probs.requires_grad_()
        monkeypatch.setattr("pharos.train.rl.grpo.log_probs_of", lambda *_: self.log_probs)


def losses(monkeypatch: pytest.MonkeyPatch, policy: Any, **keys: Any) -> tuple[Any, Any, Any]:
    """With all ratios 1.1: no clip is reached."""
    config = GRPOConfig(group_size=2, divide_by_std=False, max_new_tokens=10, **keys)
    objective = GRPO(config, Reference())
    finished = objective.finish(columns())
    batch = {name: x for name, x in finished.items() if config.beta or "reference" not in name}
    is_said = batch["labels"] != IGNORED
    spoken = Spoken(monkeypatch, torch.where(is_said, -1.0 + np.log(1.1), 0.0).float())
    return objective.losses(policy(), batch), objective.count(batch), spoken


@pytest.mark.parametrize(
    ("normalization", "mask", "expected", "count"),
    [
        # Σ of -A · 1.1 over tokens: the groups' advantages are (1/2, -1/2).
        ("token", False, -0.55 * (1 - 2 + 3 - 1), 7),
        ("token", True, -0.55 * (1 - 2 + 3), 6),
        ("sequence", False, -0.55 * (1 - 1 + 1 - 1), 4),
        ("sequence", True, -0.55 * (1 - 1 + 1), 3),
        ("constant", False, -0.55 * (1 - 2 + 3 - 1) / 10, 4),
        ("constant", True, -0.55 * (1 - 2 + 3) / 10, 3),
    ],
)
def test_the_loss_of_two_groups_by_hand(
    monkeypatch, policy, normalization: Any, mask: bool, expected: float, count: int
) -> None:
    sums, counts, _ = losses(monkeypatch, policy, normalization=normalization, mask_truncated=mask)
    assert float(sums["policy"].detach()) == pytest.approx(expected, abs=1e-6)
    assert counts["policy"] == count
    assert (counts["ratio"], counts["score"]) == (7, 4)
    assert float(sums["ratio"]) == pytest.approx(7.7)
    assert float(sums["equal_groups"]) == 0
    assert float(sums["truncated"]) == 1


def test_tokens_of_truncated_completions_get_no_gradient(monkeypatch, policy) -> None:
    sums, _, spoken = losses(monkeypatch, policy, mask_truncated=True)
    sums["policy"].backward()
    assert not spoken.log_probs.grad[3].any()
    assert spoken.log_probs.grad[0, 0] != 0


def test_beta_weighs_the_kl_from_the_reference(monkeypatch, policy) -> None:
    sums, counts, _ = losses(monkeypatch, policy, beta=0.3, mask_truncated=False)
    log_ratio = -1.5 - (-1 + np.log(1.1))
    k3 = np.exp(log_ratio) - 1 - log_ratio
    assert float(sums["kl"].detach()) == pytest.approx(7 * k3, rel=1e-5)
    assert counts["kl"] == 7
    assert GRPO(GRPOConfig(beta=0.3), Reference()).weights["kl"] == 0.3
    assert "kl" not in GRPO(GRPOConfig(), Reference()).weights


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("grpo", {"group_size": 1}, "group_size"),
        ("grpo", {"beta": -1}, "beta"),
        ("grpo", {"reference": "somewhere"}, "beta is 0"),
        ("grpo", {"normalization": "tokens"}, "normalization"),
        ("grpo", {"temperature": 0.7}, "temperature"),
        ("ppo", {"gamma": 1.5}, "gamma"),
        ("ppo", {"clip_low": 0}, "clip_low"),
        ("ppo", {"max_new_tokens": 0}, "max_new_tokens"),
        ("ppo", {"kl": {"coefficient": 0, "target": 1}}, "target"),
        ("ppo", {"reward": {"verifyer": "exact"}}, "verifier"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        new_objective(name, keys, VOCABULARY)
