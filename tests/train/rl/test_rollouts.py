"""What is sampled is what is trained; rollouts are dealt, kept and resumed exactly."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pharos.adapt import Adapters, LoraConfig
from pharos.core.errors import TrainingError
from pharos.models.heads import CausalLM
from pharos.train.completions import is_said, log_probs_of
from pharos.train.events import Observer, StepRecord
from pharos.train.loop import Trainer
from pharos.train.meter import Meter
from pharos.train.objective import IGNORED
from pharos.train.reference import Reference
from pharos.train.rl.actor_critic import ActorCritic
from pharos.train.rl.grpo import GRPO, GRPOConfig
from pharos.train.rl.kl_control import KLConfig
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.rl.ppo import PPO, PPOConfig
from pharos.train.rl.rewards import Completion
from pharos.train.rl.rollout import roll_out
from pharos.train.step_zero import check_first_step

EOS = 1


def a_ppo(policy: Callable[..., CausalLM], **keys: Any) -> tuple[nn.Module, PPO]:
    config = PPOConfig(max_new_tokens=6, **{"epochs": 2, **keys})
    return ActorCritic(policy()), PPO(config, Reference(policy()))


def a_grpo(policy: Callable[..., CausalLM], **keys: Any) -> tuple[nn.Module, GRPO]:
    usual = {"group_size": 4, "epochs": 2, "beta": 0.1, "mask_truncated": False}
    return policy(), GRPO(GRPOConfig(max_new_tokens=6, **{**usual, **keys}), Reference(policy()))


BOTH = pytest.mark.parametrize("make", [a_ppo, a_grpo])
Make = Callable[..., tuple[nn.Module, OnPolicy]]


class Kept(Observer):
    """What was told of each step."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)


# -- sampling


def said_by(model: CausalLM, rows: Sequence[Any], seeds: Sequence[int], max_tokens: int = 6) -> Any:
    return roll_out(model.eval(), rows, max_tokens=max_tokens, seeds=seeds, eos_ids=[EOS], pad_id=0)


def test_sampled_log_probabilities_are_those_that_training_computes(policy, prompts) -> None:
    model = policy()
    said = said_by(model, [prompts[i] for i in range(20)], range(20))
    trained = log_probs_of(model, said.batch).detach()
    torch.testing.assert_close(said.batch["sampled_log_probs"], trained, atol=1e-5, rtol=0)
    assert trained[is_said(said.batch)].max() < 0


def test_what_is_said_depends_on_its_own_prompt_and_seed_only(policy, prompts) -> None:
    model, rows = policy(), [prompts[i] for i in range(9)]
    together = said_by(model, rows, range(9)).completions
    alone = [said_by(model, [row], [i]).completions[0] for i, row in enumerate(rows)]
    assert [c.ids for c in together] == [c.ids for c in alone]
    other = said_by(model, rows, range(100, 109)).completions
    assert [c.ids for c in together] != [c.ids for c in other]


def test_a_completion_ends_with_eos_or_is_marked_as_cut(policy, prompts) -> None:
    said = said_by(policy(), [prompts[i % 4] for i in range(60)], range(60))
    ended = [c.ids[-1] == EOS for c in said.completions]
    assert 0 < sum(ended) < 60
    for completion, is_ended in zip(said.completions, ended, strict=True):
        assert completion.is_truncated is not is_ended
        assert EOS not in completion.ids[:-1]
        assert is_ended or len(completion.ids) == 6
    for labels, completion in zip(said.batch["labels"], said.completions, strict=True):
        assert tuple(labels[labels != IGNORED].tolist()) == completion.ids


def test_prompts_without_room_are_refused_with_the_way_out(policy, prompts) -> None:
    with pytest.raises(TrainingError, match=r"objective\.max_new_tokens"):
        said_by(policy(), [prompts[0]], [0], max_tokens=40)


# -- the first step


@BOTH
def test_at_the_first_step_the_ratio_is_1_and_the_kl_0(
    make: Make, policy, rollouts, prompts
) -> None:
    model, objective = make(policy)
    batch = rollouts(model, objective, micro_batch_size=8).next_step()[0]
    sums, counts = objective.losses(model.train(), batch), objective.count(batch)
    ratios = (log_probs_of(objective.policy_of(model), batch) - batch["old_log_probs"]).exp()
    torch.testing.assert_close(ratios, torch.ones_like(ratios), atol=1e-5, rtol=0)
    assert float(sums["ratio"]) / counts["ratio"] == pytest.approx(1, abs=1e-6)
    assert float(sums["kl"].detach()) / counts["kl"] == pytest.approx(0, abs=1e-6)
    assert float(sums["sampler_gap"]) / counts["sampler_gap"] < 1e-5
    assert float(sums["clipped"]) == 0
    check_first_step(model, objective, [batch], lambda _: sums, is_fresh=False)


def test_a_sampler_of_other_weights_is_found_at_step_zero(policy, rollouts) -> None:
    model, objective = a_grpo(policy)
    batch = dict(rollouts(model, objective, micro_batch_size=8).next_step()[0])
    other = log_probs_of(policy(seed=1).eval(), batch).detach()
    batch["sampled_log_probs"] = other
    with pytest.raises(TrainingError, match="off the sampler's"):
        check_first_step(
            model, objective, [batch], lambda _: objective.losses(model, batch), is_fresh=False
        )


@BOTH
def test_gradients_go_through_the_policy_and_nothing_of_the_reference(
    make: Make, policy, rollouts
) -> None:
    model, objective = make(policy)
    batch = rollouts(model, objective, micro_batch_size=8).next_step()[0]
    sums = objective.losses(model, batch)
    sum(weight * sums[name] for name, weight in objective.weights.items()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    reference = objective.reference.model
    assert all(p.grad is None and not p.requires_grad for p in reference.parameters())


def test_an_adapters_base_is_the_reference_and_no_second_model(policy, rollouts) -> None:
    model = policy()
    Adapters(model).add(LoraConfig(r=2, lora_dropout=0.5))
    objective = GRPO(GRPOConfig(max_new_tokens=6, group_size=4, beta=0.1), Reference())
    batch = rollouts(model, objective, micro_batch_size=8).next_step()[0]
    torch.testing.assert_close(
        batch["reference_log_probs"], batch["old_log_probs"], atol=1e-6, rtol=0
    )


@BOTH
def test_micro_batches_change_nothing(make: Make, policy, rollouts) -> None:
    """Of uneven completions: each token counts alike, however they are dealt."""
    model, objective = make(policy)
    batches = rollouts(model, objective, micro_batch_size=8).next_step()
    lines = [{name: x[i].numpy() for name, x in batches[0].items()} for i in range(8)]
    dealt = [objective.collate(lines[first : first + 2]) for first in range(0, 8, 2)]

    def gradients(parts: Sequence[Any]) -> list[torch.Tensor]:
        model.zero_grad()
        counts = [objective.count(part) for part in parts]
        for part in parts:
            sums = objective.losses(model, part)
            scaled = (
                weight * sums[name] / sum(count[name] for count in counts)
                for name, weight in objective.weights.items()
            )
            sum(scaled).backward()
        return [p.grad.clone() for p in model.parameters()]

    torch.testing.assert_close(gradients(dealt), gradients(batches), atol=1e-6, rtol=1e-4)


# -- dealing


def test_each_epoch_goes_through_all_lines_in_another_order(policy, rollouts) -> None:
    model, objective = a_ppo(policy, rollout_size=16)
    made = rollouts(model, objective)
    steps = [made.next_step() for _ in range(4)]
    assert made.made == 1 and made.steps_left == 0
    assert all([len(batch["ids"]) for batch in step] == [4, 4] for step in steps)

    def scores(epoch: Sequence[Any]) -> list[float]:
        return [float(x) for step in epoch for batch in step for x in batch["returns"].sum(1)]

    first, second = scores(steps[:2]), scores(steps[2:])
    assert first != second
    assert sorted(first) == pytest.approx(sorted(second))
    made.next_step()
    assert made.made == 2


def test_each_prompt_is_answered_by_a_group(policy, rollouts) -> None:
    model, objective = a_grpo(policy)
    seen: list[Completion] = []

    def scorer(completions: Sequence[Completion]) -> list[float]:
        seen.extend(completions)
        return [1.0] * len(completions)

    made = rollouts(model, objective)
    made.scorer = scorer
    batch = made.next_step()[0]
    asked = [c.prompt["prompt_ids"].tolist() for c in seen]
    assert asked == [asked[0]] * 4 + [asked[4]] * 4
    assert asked[0] != asked[4]
    assert len({c.ids for c in seen}) > 2
    assert batch["equal_groups"].tolist() == [1.0] * 4
    assert not batch["advantages"].any()


def test_rollouts_restore_the_mode_of_the_model(policy, rollouts) -> None:
    model, objective = a_ppo(policy)
    for mode in (True, False):
        model.train(mode)
        rollouts(model, objective).next_step()
        assert model.training is mode


@pytest.mark.parametrize("scores", [[1.0], [float("nan")] * 8])
def test_a_reward_that_is_no_number_for_each_is_refused(policy, rollouts, scores) -> None:
    model, objective = a_grpo(policy)
    made = rollouts(model, objective)
    made.scorer = lambda _: scores
    with pytest.raises(TrainingError, match="finite number for each"):
        made.next_step()


@pytest.mark.parametrize("size", [12, 20])
def test_a_rollout_that_cannot_be_dealt_is_refused(policy, rollouts, size) -> None:
    model, objective = a_grpo(policy, rollout_size=size)
    with pytest.raises(TrainingError, match="multiple of batch_size"):
        rollouts(model, objective)


# -- whole runs


@BOTH
def test_a_run_resumed_in_the_middle_of_a_rollout_is_the_same_bit_for_bit(
    make: Make, policy, trainer, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"rollout_size": 16, "epochs": 2}
    if make is a_ppo:
        keys["kl"] = KLConfig(coefficient=0.1, target=0.01, horizon=20)

    def run(output: Path, *, first: int | None = None) -> tuple[nn.Module, OnPolicy]:
        model, objective = make(policy, **keys)
        if first is not None:
            part = trainer(model, objective, output, checkpoint_every=first)
            with part.batches(0) as loader:
                _steps(part, loader, first)
            part.save()
            model, objective = make(policy, **keys)
        whole = trainer(model, objective, output)
        assert whole.resume() is (first is not None)
        whole.run()
        return model, objective

    expected, of_expected = run(tmp_path / "whole")
    for first in (3, 5):
        found, of_found = run(tmp_path / f"from-{first}", first=first)
        assert of_found.state_dict() == of_expected.state_dict()
        for name, parameter in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], parameter), (first, name)


def _steps(trainer: Trainer, loader: Any, count: int) -> None:
    meter, steps = Meter(trainer), iter(loader)
    for _ in range(count):
        trainer.train_step(next(steps), meter, loader)


@BOTH
def test_what_users_watch_is_told_of_each_step(make: Make, policy, trainer, tmp_path) -> None:
    model, objective = make(policy)
    run, kept = trainer(model, objective, tmp_path, steps=3), Kept()
    run.observers = [kept]
    run.run()
    told = kept.records[0].losses
    assert {"policy", "kl", "entropy", "ratio", "clipped", "score", "truncated"} <= set(told)
    assert told["ratio"] == pytest.approx(1, abs=1e-6)
    assert told["kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < told["score"] <= 1 and 1 <= told["length"] <= 6
    assert 0 < told["entropy"] < np.log(12) + 1
    assert kept.records[0].waited_seconds > 0


def test_a_step_without_anything_to_learn_goes_on(policy, trainer, tmp_path) -> None:
    model, objective = policy(), GRPO(GRPOConfig(max_new_tokens=1, group_size=4), Reference())
    with torch.no_grad():
        model.body.embedding.weight[EOS] = 0  # tied: EOS is as unlikely as any, others more so
    run, kept = trainer(model, objective, tmp_path, steps=2), Kept()
    run.observers = [kept]
    run.carried.eos_ids = []  # nothing ends: all completions are cut
    run.run()
    assert kept.records[0].losses["truncated"] == 1.0
    assert kept.records[0].losses["policy"] == 0.0


def test_the_loss_of_a_policy_may_leap(policy, trainer, tmp_path) -> None:
    model, objective = a_grpo(policy)
    watchdog = trainer(model, objective, tmp_path).watchdog
    for step in range(64):
        watchdog.check(step, 0.0, [], tmp_path)
    watchdog.check(64, 0.5, [], tmp_path)
    with pytest.raises(TrainingError, match="no number"):
        watchdog.check(65, float("nan"), [], tmp_path)


def test_evaluating_carries_nothing_on(policy, rollouts, prompts) -> None:
    class Held:
        def __len__(self) -> int:
            return 20

        def row(self, index: int, epoch: int) -> Any:
            return prompts[100 + index]

    model, objective = a_ppo(policy, kl=KLConfig(coefficient=0.1, target=1.0, horizon=10))
    made = rollouts(model, objective)
    made.next_step()
    before = made.state_dict()
    first, again = (list(made.evaluation(Held(), 10)) for _ in range(2))
    assert [len(batch["ids"]) for (batch,) in first] == [4, 4, 2]
    for (one,), (other,) in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    after = made.state_dict()
    assert after["objective"] == before["objective"]
    assert (after["made"], after["steps_left"]) == (before["made"], before["steps_left"])
