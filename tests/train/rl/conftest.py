"""A small decoder, prompts of uneven lengths, and a run of a few steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pharos.data.rows import Row, row_generator
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.rl.rewards import Completion
from pharos.train.rl.rollouts import Rollouts
from pharos.train.schedules import Schedule, ScheduleConfig

VOCAB, EOS = 12, 1


class Prompts:
    """Of one to four tokens, by number."""

    def __getitem__(self, number: int) -> Row:
        draw = row_generator("prompts", 0, number)
        return {"prompt_ids": draw.integers(2, VOCAB, draw.integers(1, 5)).astype(np.int32)}


def _policy(seed: int = 0) -> CausalLM:
    """With dropout, which must not matter, and weights large enough that tokens differ."""
    dropout = {"embd_pdrop": 0.2, "resid_pdrop": 0.2, "attn_pdrop": 0.2}
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    raw = {"model_type": "gpt2", "vocab_size": VOCAB, "initializer_range": 0.3, **sizes, **dropout}
    model = new_model(raw, "causal_lm", seed=seed)
    assert isinstance(model, CausalLM)
    return model


def _low_tokens(completions: Sequence[Completion]) -> list[float]:
    """The share of low tokens in what was said."""
    return [float(np.mean([token < VOCAB // 2 for token in c.ids])) for c in completions]


def _rollouts(model: nn.Module, objective: OnPolicy, **changes: Any) -> Rollouts:
    usual = {"batch_size": 8, "micro_batch_size": 4, "eos_ids": [EOS], "seed": 3}
    return Rollouts(model, objective, Prompts(), _low_tokens, **{**usual, **changes})


def _trainer(
    model: nn.Module, objective: OnPolicy, output: Path, *, steps: int = 6, **changes: Any
) -> Trainer:
    rollouts = _rollouts(model, objective)
    sizes = {"batch_size": 8, "micro_batch_size": 4}
    return Trainer(
        model=model,
        objective=objective,
        optimizer=make_optimizer(OptimizerConfig(lr=3e-3), model),
        schedule=Schedule(ScheduleConfig(), steps=steps),
        config=LoopConfig(**{"steps": steps, "log_every": 1, **sizes, **changes}),
        output=output,
        batches=rollouts.loader,
        carried=rollouts,
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def policy() -> Callable[..., CausalLM]:
    return _policy


@pytest.fixture
def prompts() -> Prompts:
    return Prompts()


@pytest.fixture
def rollouts() -> Callable[..., Rollouts]:
    return _rollouts


@pytest.fixture
def trainer() -> Callable[..., Trainer]:
    return _trainer
