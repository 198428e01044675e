"""A reward is raised by what is sampled alone, and the policy stays near where it began.

The task: say the last token of the prompt once more, and end. A teacher that errs taught the base,
so it says the right thing in less than half of the cases. (`benchmarks/alignment.py` does the same
with sums, to a higher goal.)
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pharos.data.rows import Row, row_generator
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.train.completions import completion_batch, log_probs_of
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.reference import Reference
from pharos.train.rl.actor_critic import ActorCritic
from pharos.train.rl.grpo import GRPO, GRPOConfig
from pharos.train.rl.kl_control import KLConfig
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.rl.ppo import PPO, PPOConfig
from pharos.train.rl.rewards import Completion
from pharos.train.rl.rollout import roll_out
from pharos.train.rl.rollouts import Rollouts
from pharos.train.schedules import Schedule, ScheduleConfig

pytestmark = pytest.mark.slow

VOCAB, EOS, BATCH = 10, 1, 64


class Prompts:
    def __getitem__(self, number: int) -> Row:
        return {"prompt_ids": row_generator("prompt", 0, number).integers(2, VOCAB, 2)}


def is_repeated(completions: Sequence[Completion]) -> list[float]:
    return [float(c.ids == (int(c.prompt["prompt_ids"][-1]), EOS)) for c in completions]


@pytest.fixture(scope="module")
def base() -> CausalLM:
    """Taught by a teacher that errs in two of three cases."""
    torch.set_num_threads(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    raw = {"model_type": "llama", "vocab_size": VOCAB, "num_attention_heads": 2, **sizes}
    model = new_model(raw, "causal_lm", seed=0)
    assert isinstance(model, CausalLM)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = np.random.default_rng(0)
    for _ in range(150):
        prompts = draw.integers(2, VOCAB, (64, 2))
        said = np.where(draw.random(64) < 2 / 3, draw.integers(2, VOCAB, 64), prompts[:, 1])
        batch = completion_batch(list(prompts), [[int(token), EOS] for token in said], pad_id=0)
        optimizer.zero_grad()
        (-log_probs_of(model, batch).sum() / 64).backward()
        optimizer.step()
    return model


@torch.no_grad()
def standing(policy: CausalLM, base: CausalLM) -> tuple[float, float]:
    """Mean reward, and the KL from the base in nats a completion."""
    rows = [Prompts()[1_000_000 + i] for i in range(300)]
    said = roll_out(policy.eval(), rows, max_tokens=4, seeds=range(300), eos_ids=[EOS], pad_id=0)
    log_ratio = log_probs_of(policy, said.batch) - log_probs_of(base.eval(), said.batch)
    return float(np.mean(is_repeated(said.completions))), float(log_ratio.sum(1).mean())


def ppo(policy: CausalLM, reference: Reference) -> tuple[nn.Module, OnPolicy]:
    kl = KLConfig(coefficient=0.02, target=2.0)
    config = PPOConfig(max_new_tokens=4, value_weight=0.5, kl=kl)
    return ActorCritic(policy), PPO(config, reference)


def grpo(policy: CausalLM, reference: Reference) -> tuple[nn.Module, OnPolicy]:
    config = GRPOConfig(max_new_tokens=4, group_size=8, epochs=2, beta=0.02)
    return policy, GRPO(config, reference)


@pytest.mark.parametrize("make", [ppo, grpo])
def test_the_reward_rises_and_the_policy_stays_near(make, base: CausalLM, tmp_path: Path) -> None:
    reward, kl = standing(base, base)
    assert reward < 0.5 and kl == 0
    policy = deepcopy(base)
    model, objective = make(policy, Reference(deepcopy(base)))
    rollouts = Rollouts(
        model,
        objective,
        Prompts(),
        is_repeated,
        batch_size=BATCH,
        micro_batch_size=BATCH,
        eos_ids=[EOS],
    )
    Trainer(
        model=model,
        objective=objective,
        optimizer=make_optimizer(OptimizerConfig(lr=3e-3, weight_decay=0.0), model),
        schedule=Schedule(ScheduleConfig(), steps=150),
        config=LoopConfig(steps=150, batch_size=BATCH),
        output=tmp_path,
        batches=rollouts.loader,
        carried=rollouts,
    ).run()
    reward, kl = standing(policy, base)
    assert reward > 0.8
    assert 0 < kl < 2.0
