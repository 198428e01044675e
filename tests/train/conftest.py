"""Tiny models and batches, and the few steps that must learn a batch by heart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pharos.data.rows import Row, row_generator
from pharos.models.family import Model, Task
from pharos.models.load import new_model
from pharos.train.objective import Batch, Objective

SIZES: Mapping[str, Mapping[str, Any]] = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
    },
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}
VOCAB = 61


def _tiny(kind: str, task: Task, *, seed: int = 0, **changes: Any) -> Model:
    raw = {"model_type": kind, "vocab_size": VOCAB, **SIZES[kind], **changes}
    return new_model(raw, task, seed=seed)


def _text(length: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(5, VOCAB, length).astype(np.int32)


def _make_batch(objective: Objective, rows: Sequence[Row]) -> Batch:
    examples = [objective.example(row, row_generator("test", 0, i)) for i, row in enumerate(rows)]
    return objective.collate(examples)


def _mean_loss(objective: Objective, model: nn.Module, batch: Batch) -> torch.Tensor:
    sums, counts = objective.losses(model, batch), objective.count(batch)
    terms = (weight * sums[name] / counts[name] for name, weight in objective.weights.items())
    return sum(terms, torch.zeros(()))


def _learn(
    objective: Objective, model: nn.Module, batch: Batch, *, steps: int = 60, lr: float = 3e-3
) -> list[float]:
    """The losses of some steps on one batch, without dropout."""
    torch.set_num_threads(1)
    model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = _mean_loss(objective, model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture
def tiny() -> Callable[..., Model]:
    """`tiny("bert", "masked_lm")`: a fresh model of two layers and 61 tokens."""
    return _tiny


@pytest.fixture
def text() -> Callable[..., Any]:
    """`text(length, seed)`: token ids from 5 on."""
    return _text


@pytest.fixture
def make_batch() -> Callable[[Objective, Sequence[Row]], Batch]:
    return _make_batch


@pytest.fixture
def mean_loss() -> Callable[[Objective, nn.Module, Batch], torch.Tensor]:
    return _mean_loss


@pytest.fixture
def learn() -> Callable[..., list[float]]:
    return _learn
