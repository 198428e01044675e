"""Shapes: B rows, T places."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pharos.adapt import Adapters, PromptTuningConfig
from pharos.data.rendered_rows import PackedRows, PreferenceRows, RenderedRows
from pharos.data.rendering import Rendered
from pharos.data.rows import Row
from pharos.train.objective import IGNORED
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.sft import SupervisedFineTuning, behind_prompt

END = 0
VOCABULARY = Vocabulary(size=61, ids={"pad": END, "eos": END}, special_ids=frozenset({END}))


@pytest.fixture
def objective() -> SupervisedFineTuning:
    made = new_objective("sft", {}, VOCABULARY)
    assert isinstance(made, SupervisedFineTuning)
    return made


def rendered(ids: Any, learned: list[int]) -> Rendered:
    """At the places `learned` the id is learned."""
    ids = np.asarray(ids, dtype=np.int32)
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    labels[learned] = ids[learned]
    return Rendered(ids=ids, labels=labels, num_cut=0)


def conversation(text: Callable[..., Any], length: int, answer: int) -> Rendered:
    """Of random ids; the last `answer` of them are learned, of which the last one is the end."""
    ids = text(length, length).copy()
    ids[-1] = END
    return rendered(ids, list(range(length - answer, length)))


def rows_of(texts: list[Rendered], packed: int | None = None) -> list[Row]:
    rows: Any = RenderedRows(texts)
    rows = rows if packed is None else PackedRows(rows, packed)
    return [rows.row(i, 0) for i in range(len(rows))]


def test_a_token_is_a_target_where_it_is_learned(
    objective: SupervisedFineTuning, make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(objective, rows_of([rendered([7, 8, 9, END, 11], [2, 3])]))
    assert batch["ids"].tolist() == [[7, 8, 9, END]]
    assert batch["labels"].tolist() == [[IGNORED, 9, END, IGNORED]]
    assert objective.count(batch) == {"sft": 2}


def test_the_end_of_a_turn_is_learned_though_padding_has_its_id(
    objective: SupervisedFineTuning, make_batch: Callable[..., Any]
) -> None:
    texts = [rendered([7, 8, END], [1, 2]), rendered([7, 8, 9, 10, END], [4])]
    batch = make_batch(objective, rows_of(texts))
    assert batch["ids"].tolist() == [[7, 8, END, END], [7, 8, 9, 10]]
    assert batch["labels"].tolist() == [[8, END, IGNORED, IGNORED], [IGNORED] * 3 + [END]]


def test_the_first_token_of_a_conversation_is_not_asked_of_the_one_before(
    objective: SupervisedFineTuning, make_batch: Callable[..., Any]
) -> None:
    """Also where it is learned, as that of a plain text is."""
    texts = [rendered([7, 8, END], [0, 1, 2]), rendered([9, END], [0, 1])]
    batch = make_batch(objective, rows_of(texts, packed=6))
    assert batch["labels"].tolist() == [[8, END, IGNORED, END, IGNORED]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1]]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_conversations_have_the_gradients_of_conversations_one_by_one(
    kind: str,
    objective: SupervisedFineTuning,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    model = tiny(kind, "causal_lm").double().eval()
    texts = [conversation(text, *sizes) for sizes in ((9, 4), (4, 1), (14, 13), (6, 2), (11, 5))]

    def gradients(*batches: Any) -> list[torch.Tensor]:
        loss = sum(objective.losses(model, batch)["sft"] for batch in batches)
        return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    alone = [make_batch(objective, [row]) for row in rows_of(texts)]
    packed = make_batch(objective, rows_of(texts, packed=20))
    assert len(packed["ids"]) == 3
    torch.testing.assert_close(gradients(packed), gradients(*alone))
    torch.testing.assert_close(gradients(make_batch(objective, rows_of(texts))), gradients(*alone))
    assert objective.count(packed) == {"sft": 4 + 1 + 13 + 2 + 5}


def test_it_learns_a_batch_by_heart(
    objective: SupervisedFineTuning,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
    learn: Callable[..., list[float]],
) -> None:
    texts = [conversation(text, length, 4) for length in (9, 12, 7)]
    batch = make_batch(objective, rows_of(texts, packed=30))
    losses = learn(objective, tiny("llama", "causal_lm"), batch, lr=1e-2)
    assert losses[-1] < 0.05


def test_a_trained_prompt_stands_before_each_row(
    objective: SupervisedFineTuning, tiny: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = tiny("llama", "causal_lm")
    batch = make_batch(objective, rows_of([rendered([7, 8, END], [1, 2]), rendered([9, END], [1])]))
    assert behind_prompt(model, batch) is batch
    Adapters(model).add(PromptTuningConfig(num_virtual_tokens=2))
    seen = behind_prompt(model, batch)
    assert seen["ids"].tolist() == [[61, 62, 7, 8], [61, 62, 9, END]]
    assert seen["labels"].tolist() == [[IGNORED, IGNORED, 8, END], [IGNORED, IGNORED, END, IGNORED]]
    assert seen["positions"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 2]]
    assert objective.count(seen) == objective.count(batch)


def test_pairs_are_a_prompt_and_two_answers_to_their_ends() -> None:
    pair = rendered([7, 8, 9, END, 5], [2, 3]), rendered([7, 8, END], [2])
    row = PreferenceRows([pair], ["the pair"]).row(0, 0)
    assert {name: ids.tolist() for name, ids in row.items()} == {
        "prompt_ids": [7, 8],
        "chosen_ids": [9, END],
        "rejected_ids": [END],
    }
