from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.train.objective import IGNORED
from pharos.train.objectives.classification import (
    ProblemType,
    SequenceClassification,
    SequenceClassificationConfig,
    TokenClassification,
)
from pharos.train.objectives.vocabulary import Vocabulary

LABELS3: Mapping[str, Any] = {"id2label": {"0": "a", "1": "b", "2": "c"}}


def classification(
    problem_type: ProblemType = "single_label_classification",
) -> SequenceClassification:
    config = SequenceClassificationConfig(problem_type=problem_type)
    return SequenceClassification(config, Vocabulary(size=61))


def labelled(text: Any, labels: list[Any], lengths: tuple[int, ...] = (9, 4, 12, 6)) -> list[Any]:
    return [
        {"ids": text(length, i), "label": np.array(label)}
        for i, (length, label) in enumerate(zip(lengths, labels, strict=True))
    ]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "llama", "gpt2"])
def test_a_batch_of_classes_is_learnt_by_heart(
    kind: str, tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective = classification()
    batch = make_batch(objective, labelled(text, [0, 1, 2, 1]))
    model = tiny(kind, "sequence_classification", **LABELS3)
    losses = learn(objective, model, batch)
    assert losses[0] == pytest.approx(np.log(3), abs=0.3)
    assert losses[-1] < 0.05
    assert objective.losses(model, batch)["correct"] == 4


@pytest.mark.parametrize(
    ("problem_type", "labels", "term"),
    [
        (
            "multi_label_classification",
            [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]],
            "classification",
        ),
        ("regression", [[0.5, -1, 2], [1, 1, 1], [0, 0, 0], [-1, 0.3, 0]], "regression"),
    ],
)
def test_several_answers_to_one_text_are_learnt(
    problem_type: Any, labels: Any, term: str, tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective = classification(problem_type)
    batch = make_batch(objective, labelled(text, labels))
    assert objective.count(batch) == {term: 12}
    model = tiny("bert", "sequence_classification", **LABELS3)
    assert learn(objective, model, batch, steps=90)[-1] < 0.05


def test_a_number_alone_is_a_label_too(tiny: Any, text: Any, make_batch: Any) -> None:
    objective = classification("regression")
    batch = make_batch(objective, labelled(text, [0.5, 1.5, 2.5, 3.5]))
    model = tiny("bert", "sequence_classification", id2label={"0": "grade"}).eval()
    y_B = model(batch["ids"], valid_BT=batch["valid"])[:, 0]
    expected = (y_B - torch.tensor([0.5, 1.5, 2.5, 3.5])).square().sum()
    torch.testing.assert_close(objective.losses(model, batch)["regression"], expected)


def test_a_label_of_more_numbers_than_the_model_answers_is_refused(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    objective = classification("regression")
    batch = make_batch(objective, labelled(text, [0.5, 1.5, 2.5, 3.5]))
    with pytest.raises(TrainingError, match="1 numbers, and the model answers with 3"):
        objective.losses(tiny("bert", "sequence_classification", **LABELS3), batch)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_sum_of_a_batch_is_the_sum_of_its_texts(
    kind: str, tiny: Any, text: Any, make_batch: Any
) -> None:
    """Pitfall 1, and padding: eight batches of one are one batch of eight."""
    objective = classification()
    rows = labelled(text, [0, 1, 2, 1])
    model = tiny(kind, "sequence_classification", **LABELS3).eval()
    whole = objective.losses(model, make_batch(objective, rows))
    parts = [objective.losses(model, make_batch(objective, [row])) for row in rows]
    summed = sum(part["classification"] for part in parts)
    torch.testing.assert_close(whole["classification"], summed)


def test_a_model_without_the_head_is_refused(tiny: Any, text: Any, make_batch: Any) -> None:
    objective = classification()
    batch = make_batch(objective, labelled(text, [0, 1, 0, 1]))
    with pytest.raises(TrainingError, match="CausalLM; build it with the task sequence_class"):
        objective.losses(tiny("llama", "causal_lm"), batch)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "llama"])
def test_classes_of_tokens_are_learnt_by_heart(
    kind: str, tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective = TokenClassification(Vocabulary(size=61))
    rows = [
        {"ids": text(length, length), "labels": text(length, length) % 3} for length in (7, 11, 5)
    ]
    batch = make_batch(objective, rows)
    assert objective.count(batch) == {"token_classification": 23}
    model = tiny(kind, "token_classification", **LABELS3)
    assert learn(objective, model, batch)[-1] < 0.05
    assert objective.losses(model, batch)["correct"] == 23


def test_tokens_without_a_label_do_not_count(tiny: Any, text: Any, make_batch: Any) -> None:
    objective = TokenClassification(Vocabulary(size=61))
    model = tiny("bert", "token_classification").eval()
    ids = text(6)
    labels = np.array([IGNORED, 1, IGNORED, 0, IGNORED, IGNORED])
    batch = make_batch(objective, [{"ids": ids, "labels": labels}])
    log_probs_TC = model(batch["ids"])[0].log_softmax(-1)
    expected = -(log_probs_TC[1, 1] + log_probs_TC[3, 0])
    torch.testing.assert_close(objective.losses(model, batch)["token_classification"], expected)
    assert objective.count(batch) == {"token_classification": 2}


def test_a_model_without_segments_reads_rows_that_tell_them(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    """A tokenizer tells segments whether DistilBERT knows them or not."""
    objective, model = classification(), tiny("distilbert", "sequence_classification").eval()
    rows = labelled(text, [0, 1, 0, 1])
    segmented = [row | {"token_types": np.ones_like(row["ids"])} for row in rows]
    plain = objective.losses(model, make_batch(objective, rows))
    told = objective.losses(model, make_batch(objective, segmented))
    torch.testing.assert_close(plain, told)
