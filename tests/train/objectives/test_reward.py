"""Reward models: where the score is read, what the loss is, and that it learns."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.heads import Reward
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.reward import RewardConfig, RewardModelling, bradley_terry_loss
from pharos.train.objectives.supervised import head_output
from pharos.train.step_zero import check_first_step

VOCABULARY = Vocabulary(size=61, ids={"pad": 0, "eos": 1})
EOS = 1


def pairs(count: int, seed: int = 0) -> list[Row]:
    """Of two answers the one with more low tokens is better; their lengths tell nothing."""
    draw = np.random.default_rng(seed)

    def answer(lowest: int, highest: int) -> np.ndarray:
        ids = draw.integers(lowest, highest, draw.integers(3, 7))
        return np.append(ids, EOS).astype(np.int32)

    return [
        {
            "prompt_ids": draw.integers(5, 61, draw.integers(1, 5)).astype(np.int32),
            "chosen_ids": answer(5, 40),
            "rejected_ids": answer(25, 61),
        }
        for _ in range(count)
    ]


def test_the_loss_is_that_of_bradley_and_terry() -> None:
    losses = bradley_terry_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 3.0]))
    expected = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(3.0))]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_score_is_read_at_the_last_token_however_much_is_padded(
    tiny: Callable[..., Reward],
) -> None:
    model = tiny("llama", "reward").eval()
    objective = RewardModelling(RewardConfig(), VOCABULARY)
    rows = pairs(5)
    together = head_output(model, objective.collate(rows))[:, 0]
    alone = [head_output(model, objective.collate([row]))[:, 0] for row in rows]
    apart = torch.cat([torch.stack([pair[i] for pair in alone]) for i in (0, 1)])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)


def test_it_begins_at_ln_2_and_the_check_of_the_first_step_passes(
    tiny: Callable[..., Reward],
) -> None:
    model = tiny("llama", "reward")
    objective = RewardModelling(RewardConfig(centre_weight=0.01), VOCABULARY)
    batch = objective.collate(pairs(8))
    sums = objective.losses(model, batch)
    assert float(sums["bradley_terry"]) / 8 == pytest.approx(math.log(2), abs=0.1)
    check_first_step(model, objective, [batch], lambda _: sums, is_fresh=True)


def test_held_out_pairs_are_told_far_better_than_by_chance(tiny: Callable[..., Reward]) -> None:
    torch.set_num_threads(1)
    model = tiny("llama", "reward")
    objective = RewardModelling(RewardConfig(), VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        loss = objective.losses(model, objective.collate(pairs(16, seed=100 + step)))
        optimizer.zero_grad()
        (loss["bradley_terry"] / 16).backward()
        optimizer.step()
    with torch.no_grad():
        sums = objective.losses(model, objective.collate(pairs(100, seed=1)))
    assert float(sums["accuracy"]) / 100 > 0.85
    assert float(sums["chosen_score"]) > float(sums["rejected_score"])


def test_the_centre_term_holds_scores_around_zero(tiny: Callable[..., Reward]) -> None:
    model = tiny("llama", "reward")
    objective = RewardModelling(RewardConfig(centre_weight=0.5), VOCABULARY)
    batch = objective.collate(pairs(3))
    scores = head_output(model, batch)[:, 0]
    expected = float((scores[:3] + scores[3:]).square().sum())
    assert float(objective.losses(model, batch)["centre"]) == pytest.approx(expected, rel=1e-4)
    assert objective.weights == {"bradley_terry": 1.0, "centre": 0.5}
    assert objective.count(batch) == {"bradley_terry": 3, "centre": 3}


def test_another_head_or_a_negative_weight_is_refused(tiny: Callable[..., Reward]) -> None:
    objective = RewardModelling(RewardConfig(), VOCABULARY)
    with pytest.raises(TrainingError, match="head for reward"):
        objective.losses(tiny("llama", "causal_lm"), objective.collate(pairs(2)))
    with pytest.raises(TrainingError, match="centre_weight"):
        new_objective("reward", {"centre_weight": -1}, VOCABULARY)
