"""Shapes: B rows, T places."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.load import new_model
from pharos.ops.experts import load_balancing_loss
from pharos.ops.masks import Causal, Documents
from pharos.train.objective import IGNORED
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.causal_lm import CausalLM, CausalLMConfig, positions_within

VOCABULARY = Vocabulary(size=61, ids={"pad": 0, "eos": 0}, special_ids=frozenset({0}))
DECODERS = ["llama", "gpt2"]


@pytest.fixture
def objective() -> CausalLM:
    return CausalLM(CausalLMConfig(), VOCABULARY)


def packed(*documents: Any, padding: int = 0) -> Row:
    """Documents in one row."""
    numbers = np.repeat(np.arange(len(documents)), [len(d) for d in documents])
    ids = np.concatenate([*documents, np.zeros(padding, dtype=np.int32)])
    document = np.concatenate([numbers, np.full(padding, -1)])
    return {"ids": ids.astype(np.int32), "document": document.astype(np.int32)}


def test_each_place_is_asked_for_the_token_after_it(
    objective: CausalLM, make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(objective, [{"ids": np.array([7, 8, 9, 10])}])
    assert batch["ids"].tolist() == [[7, 8, 9]]
    assert batch["labels"].tolist() == [[8, 9, 10]]
    assert batch["positions"].tolist() == [[0, 1, 2]]
    assert "documents" not in batch
    assert objective.count(batch) == {"causal_lm": 3}


def test_labels_stop_and_positions_begin_anew_where_a_document_does(
    objective: CausalLM, make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(objective, [packed([7, 8, 0], [9, 0], [5], padding=2)])
    assert batch["ids"].tolist() == [[7, 8, 0, 9, 0, 5, 0]]
    assert batch["labels"].tolist() == [[8, 0, IGNORED, 0, IGNORED, IGNORED, IGNORED]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    assert batch["documents"].tolist() == [[0, 0, 0, 1, 1, 2, -1]]


def test_the_end_is_learned_though_padding_has_its_id(
    objective: CausalLM, make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(objective, [packed([7, 8, 0], padding=3)])
    assert (batch["labels"] == 0).sum() == 1
    assert "documents" not in batch


def test_positions_count_within_documents() -> None:
    assert positions_within(np.array([0, 0, 0, 1, 2, 2, -1, -1])).tolist() == [
        0,
        1,
        2,
        0,
        0,
        1,
        0,
        1,
    ]
    assert positions_within(np.array([], dtype=int)).tolist() == []


def test_rows_of_different_lengths_are_padded_without_targets(
    objective: CausalLM, make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(objective, [{"ids": np.array([7, 8])}, packed([7, 8], [9, 10, 11])])
    assert batch["labels"].tolist() == [[8, *[IGNORED] * 3], [8, IGNORED, 10, 11]]
    assert batch["documents"].tolist() == [[0, -1, -1, -1], [0, 0, 1, 1]]


@pytest.mark.parametrize("kind", DECODERS)
def test_packed_documents_have_the_gradients_of_documents_one_by_one(
    kind: str,
    objective: CausalLM,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    model = tiny(kind, "causal_lm").double().eval()
    documents = [text(length, length) for length in (9, 2, 14, 5)]
    rows = [{"ids": document} for document in documents]
    together = packed(*documents, padding=3)

    def gradients(*batches: Any) -> list[torch.Tensor]:
        loss = sum(objective.losses(model, batch)["causal_lm"] for batch in batches)
        return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    alone = gradients(*(make_batch(objective, [row]) for row in rows))
    torch.testing.assert_close(gradients(make_batch(objective, [together])), alone)
    torch.testing.assert_close(gradients(make_batch(objective, rows)), alone)
    assert objective.count(make_batch(objective, [together])) == {"causal_lm": 8 + 1 + 13 + 4}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_document_has_no_gradient_from_its_neighbours(
    kind: str,
    objective: CausalLM,
    tiny: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    model = tiny(kind, "causal_lm", tie_word_embeddings=False).eval()
    first, second, third = np.arange(5, 15), np.arange(20, 30), np.arange(40, 50)
    batch = dict(make_batch(objective, [packed(first, second, third, padding=2)]))
    is_second = (batch["documents"] == 1)[:, : batch["labels"].shape[1]]
    batch["labels"] = batch["labels"].where(is_second, IGNORED)
    objective.losses(model, batch)["causal_lm"].backward()
    touched = model.body.embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == list(range(20, 29))


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_batch_is_learned_by_heart(
    kind: str,
    tied: bool,
    objective: CausalLM,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
    learn: Callable[..., list[float]],
) -> None:
    model = tiny(kind, "causal_lm", tie_word_embeddings=tied)
    rows = [packed(text(20, 1), text(13, 2)), {"ids": text(33, 3)}]
    batch = make_batch(objective, rows)
    losses = learn(objective, model, batch, steps=100, lr=1e-2)
    assert abs(losses[0] - math.log(61)) < 0.1
    assert losses[-1] < 0.1
    assert objective.losses(model, batch)["correct"] >= 0.95 * objective.count(batch)["causal_lm"]


def test_under_autocast_the_loss_is_float32_and_near_that_of_float32(
    objective: CausalLM,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    model = tiny("llama", "causal_lm").eval()
    batch = make_batch(objective, [{"ids": text(33)}])
    exact = objective.losses(model, batch)["causal_lm"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.losses(model, batch)["causal_lm"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(loss, exact, rtol=5e-3, atol=0)


def test_an_adapter_beside_the_head_counts(
    objective: CausalLM,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    class Shifted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.arange(61.0)

    model = tiny("llama", "causal_lm", tie_word_embeddings=False).eval()
    batch = make_batch(objective, [{"ids": text(20)}])
    plain = objective.losses(model, batch)["causal_lm"]
    model.lm_head.__class__ = Shifted
    shifted = objective.losses(model, batch)["causal_lm"]
    logits = model(batch["ids"]).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"][0], reduction="sum")
    torch.testing.assert_close(shifted, expected)
    assert abs(shifted - plain) > 1


def test_another_head_is_refused_by_name(
    objective: CausalLM,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    batch = make_batch(objective, [{"ids": text(9)}])
    with pytest.raises(TrainingError, match=r"head for causal_lm, and the model is a BertMaskedLM"):
        objective.losses(tiny("bert", "masked_lm"), batch)


def test_a_row_has_one_id_more_than_places(objective: CausalLM) -> None:
    assert objective.row_length(1024) == 1025


def test_what_a_recipe_misspells_is_named() -> None:
    with pytest.raises(TrainingError, match=r"unknown objective 'causal'; choose from .*causal_lm"):
        new_objective("causal", {}, VOCABULARY)
    with pytest.raises(
        TrainingError, match=r"objective\.label_smooth.*did you mean label_smoothing"
    ):
        new_objective("causal_lm", {"label_smooth": 0.1}, VOCABULARY)
    with pytest.raises(TrainingError, match=r"label_smoothing is 1\.5"):
        new_objective("causal_lm", {"label_smoothing": 1.5}, VOCABULARY)


MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 32,
}


def test_balancing_adds_the_routers_loss_over_the_targets(
    make_batch: Callable[..., Any],
) -> None:
    objective = CausalLM(CausalLMConfig(load_balancing=0.5), VOCABULARY)
    model = new_model(MIXTRAL, "causal_lm", seed=1)
    batch = make_batch(objective, [packed([7, 8, 9, 10, 11, 0], [4, 5, 0], padding=4)])
    losses = objective.losses(model, batch)
    routers: list[torch.Tensor] = []
    mask = Causal() & Documents(batch["documents"])
    model.body(batch["ids"], positions_BT=batch["positions"], mask=mask, router_logits=routers)
    expected = load_balancing_loss(routers, top_k=2, valid_BT=batch["labels"] != IGNORED)
    count = objective.count(batch)
    assert count == {"causal_lm": 7, "load_balancing": 7}
    assert losses["load_balancing"].item() / 7 == pytest.approx(expected.item(), rel=1e-5)
    losses["load_balancing"].backward()
    assert all(block.mlp.router.weight.grad.any() for block in model.body.blocks)


def test_a_model_without_experts_has_nothing_to_balance(make_batch: Callable[..., Any]) -> None:
    objective = CausalLM(CausalLMConfig(load_balancing=0.01), VOCABULARY)
    model = new_model({**MIXTRAL, "model_type": "llama"}, "causal_lm", seed=1)
    batch = make_batch(objective, [packed([7, 8, 9])])
    with pytest.raises(TrainingError, match="a llama has no experts to balance"):
        objective.losses(model, batch)
    with pytest.raises(ValueError, match="load_balancing is -1"):
        CausalLMConfig(load_balancing=-1)
