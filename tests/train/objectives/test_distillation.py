import math
from typing import Any

import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.models.load import save_model
from pharos.train.objectives import distillation, new_objective
from pharos.train.objectives.causal_lm import CausalLM, CausalLMConfig
from pharos.train.objectives.distillation import Distillation, DistillationConfig, soft_loss
from pharos.train.objectives.masked_lm import MaskedLM, MaskedLMConfig
from pharos.train.objectives.span_corruption import SpanCorruption, SpanCorruptionConfig
from pharos.train.objectives.student import student_of
from pharos.train.objectives.vocabulary import Vocabulary
from pharos.train.step import Step

VOCABULARY = Vocabulary(
    size=61,
    ids={"pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4},
    special_ids=frozenset({0, 1, 2, 3, 4, 57, 58, 59, 60}),
    sentinels=(57, 58, 59, 60),
)
HARD: dict[str, tuple[str, Any, Any]] = {
    "bert": ("masked_lm", MaskedLM, MaskedLMConfig(rate=0.4)),
    "distilbert": ("masked_lm", MaskedLM, MaskedLMConfig(rate=0.4)),
    "llama": ("causal_lm", CausalLM, CausalLMConfig()),
    "gpt2": ("causal_lm", CausalLM, CausalLMConfig()),
    "t5": ("seq2seq_lm", SpanCorruption, SpanCorruptionConfig()),
}


def setting(kind: str, tiny: Any, text: Any, make_batch: Any) -> tuple[Distillation, Any, Any]:
    """A distillation, its teacher, and a batch of rows of three lengths."""
    task, make, config = HARD[kind]
    teacher = tiny(kind, task, seed=1)
    hard = make(config, VOCABULARY)
    rows = [{"ids": text(length, length) % 52 + 5} for length in (12, 7, 16)]
    objective = Distillation(DistillationConfig(), hard, teacher)
    return objective, teacher, make_batch(objective, rows)


def test_the_soft_loss_is_the_divergence_times_the_squared_temperature() -> None:
    """Pitfall 43, by hand: at T = 2 the logits (2 ln 3, 0) are odds of 3 to 1."""
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.tensor([[0.0, 0.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = soft_loss(student, teacher, temperature=2.0)
    assert loss.item() == pytest.approx(4 * divergence, rel=1e-6)


def test_the_gradient_of_the_soft_loss_hardly_depends_on_the_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = 0.01 * torch.randn(2, 5, 7, generator=generator)
    gradients = []
    for temperature in (1.0, 8.0):
        logits = student.clone().requires_grad_()
        soft_loss(logits, teacher, temperature=temperature).backward()
        assert logits.grad is not None
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("kind", HARD)
def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it(
    kind: str, tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, teacher, batch = setting(kind, tiny, text, make_batch)
    student = student_of(teacher, 2).eval()
    losses = objective.losses(student, batch)
    alone = objective.hard.losses(student, batch)
    assert losses["soft"].item() == pytest.approx(0, abs=1e-4)
    assert losses["cosine"].item() == pytest.approx(0, abs=1e-4)
    for name, loss in alone.items():
        torch.testing.assert_close(losses[name], loss)


@pytest.mark.parametrize("kind", HARD)
def test_a_student_learns_a_batch_by_heart(
    kind: str, tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective, teacher, batch = setting(kind, tiny, text, make_batch)
    learn(objective.hard, teacher.requires_grad_(True), batch, steps=40, lr=1e-2)
    objective = Distillation(DistillationConfig(), objective.hard, teacher)
    student = student_of(teacher, 1)
    before = objective.losses(student.eval(), batch)
    learn(objective, student, batch, steps=60, lr=1e-2)
    after = objective.losses(student, batch)
    (hard,) = objective.hard.weights
    assert after[hard] / objective.count(batch)[hard] < 0.05
    assert after["soft"] < 0.2 * before["soft"]


def test_hidden_states_turn_towards_the_teachers(
    tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective, teacher, batch = setting("bert", tiny, text, make_batch)
    config = DistillationConfig(hard_weight=0, soft_weight=0, cosine_weight=1)
    student = tiny("bert", "masked_lm", seed=5)
    losses = learn(Distillation(config, objective.hard, teacher), student, batch)
    assert losses[-1] < 0.2 * losses[0]


def test_the_tokens_that_count_are_those_that_are_no_padding(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    """Of an encoder all, with `[CLS]` and `[SEP]`; of a decoder those that have a next one."""
    bert, _, batch = setting("bert", tiny, text, make_batch)
    assert bert.count(batch)["soft"] == bert.count(batch)["cosine"] == 12 + 7 + 16 + 3 * 2
    llama, _, batch = setting("llama", tiny, text, make_batch)
    assert llama.count(batch) == {"causal_lm": 32, "soft": 32, "cosine": 32}


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_sum_of_a_batch_is_the_sum_of_its_rows(
    kind: str, tiny: Any, text: Any, make_batch: Any
) -> None:
    """Pitfall 1, and what is compared at padding: nothing."""
    objective, teacher, batch = setting(kind, tiny, text, make_batch)
    student = student_of(teacher, 1).eval()
    whole = objective.losses(student, batch)
    parts = []
    for row in range(3):
        end = int((batch["ids"][row] != 0).sum())
        one = {name: tensor[row : row + 1, :end] for name, tensor in batch.items()}
        parts.append(objective.losses(student, one))
    for name in objective.weights:
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name])


def test_scores_in_chunks_are_scores_at_once(
    tiny: Any, text: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, _, batch = setting("bert", tiny, text, make_batch)
    losses, gradients = [], []
    for at_once in (1 << 22, 61 * 4):
        monkeypatch.setattr(distillation, "LOGITS_AT_ONCE", at_once)
        student = tiny("bert", "masked_lm", seed=5).eval()
        losses.append(objective.losses(student, batch)["soft"])
        losses[-1].backward()
        gradients.append(student.body.embedding.weight.grad)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_terms_have_the_papers_weights_and_one_of_weight_0_is_not_computed(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, teacher, batch = setting("bert", tiny, text, make_batch)
    assert objective.weights == {"masked_lm": 2.0, "soft": 5.0, "cosine": 1.0}
    config = DistillationConfig(cosine_weight=0.0)
    plain = Distillation(config, objective.hard, teacher)
    assert plain.weights == {"masked_lm": 2.0, "soft": 5.0}
    assert "cosine" not in plain.losses(student_of(teacher, 1), batch)


def test_the_teacher_has_no_dropout_learns_nothing_and_is_not_saved(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    """Pitfall 25."""
    objective, teacher, batch = setting("bert", tiny, text, make_batch)
    student = student_of(teacher, 1)
    step = Step(student, objective).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    losses = step(batch)
    sum(losses[name] for name in objective.weights).backward()
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert {name.removeprefix("model.") for name in step.state_dict()} == set(student.state_dict())


def test_what_cannot_be_compared_is_refused(tiny: Any, text: Any, make_batch: Any) -> None:
    objective, _, batch = setting("bert", tiny, text, make_batch)
    with pytest.raises(TrainingError, match="vocabulary has 70 tokens and the teacher's 61"):
        objective.losses(tiny("bert", "masked_lm", vocab_size=70), batch)
    with pytest.raises(TrainingError, match=r"16 wide and the teacher's 32.*cosine_weight to 0"):
        objective.losses(tiny("bert", "masked_lm", hidden_size=16), batch)


def test_a_narrower_student_learns_without_the_cosine(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, teacher, batch = setting("bert", tiny, text, make_batch)
    config = DistillationConfig(cosine_weight=0.0)
    losses = Distillation(config, objective.hard, teacher).losses(
        tiny("bert", "masked_lm", hidden_size=16), batch
    )
    assert losses["soft"] > 0


def test_a_recipe_names_teacher_and_objective(tiny: Any, tmp_path: Any) -> None:
    save_model(tiny("bert", "masked_lm"), tmp_path)
    keys = {"teacher": str(tmp_path), "hard": {"name": "masked_lm", "rate": 0.3}, "temperature": 4}
    objective = new_objective("distillation", keys, VOCABULARY)
    assert isinstance(objective, Distillation)
    assert (objective.task, objective.row_length(32)) == ("masked_lm", 30)
    assert objective.config.temperature == 4
    keys["hard"] = {"name": "question_answering"}
    with pytest.raises(TrainingError, match=r"objective\.hard\.name is question_answering"):
        new_objective("distillation", keys, VOCABULARY)
    keys["hard"] = {"name": "masked_lm", "rat": 0.3}
    with pytest.raises(TrainingError, match=r"objective\.hard\.rat: .* did you mean rate"):
        new_objective("distillation", keys, VOCABULARY)
    keys["hard"] = {}
    with pytest.raises(TrainingError, match="hard has no name"):
        new_objective("distillation", keys, VOCABULARY)
