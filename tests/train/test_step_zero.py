import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pharos.core.errors import TrainingError
from pharos.models.two_towers import TextTower, TwoTowers
from pharos.train.objective import IGNORED
from pharos.train.objectives.causal_lm import CausalLM, CausalLMConfig
from pharos.train.objectives.classification import (
    SequenceClassification,
    SequenceClassificationConfig,
    TokenClassification,
)
from pharos.train.objectives.contrastive import ContrastiveConfig, InfoNCE
from pharos.train.objectives.distillation import Distillation, DistillationConfig
from pharos.train.objectives.masked_lm import MaskedLM, MaskedLMConfig
from pharos.train.objectives.question_answering import QuestionAnswering
from pharos.train.objectives.span_corruption import SpanCorruption, SpanCorruptionConfig
from pharos.train.objectives.student import student_of
from pharos.train.objectives.vocabulary import Vocabulary
from pharos.train.step_zero import check_batch, check_first_step, check_tied, check_vocabulary

VOCABULARY = Vocabulary(
    size=61,
    ids={"pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4},
    special_ids=frozenset({0, 1, 2, 3, 4, 57, 58, 59, 60}),
    sentinels=(57, 58, 59, 60),
)
CAUSAL = CausalLM(CausalLMConfig(), VOCABULARY)
MASKED = MaskedLM(MaskedLMConfig(rate=0.9), VOCABULARY)
SPANS = SpanCorruption(SpanCorruptionConfig(), VOCABULARY)
PAIRS = InfoNCE(ContrastiveConfig(), VOCABULARY)


def texts(text: Any, count: int = 6) -> list[Any]:
    return [{"ids": text(20 - i, i) % 52 + 5} for i in range(count)]


def check(objective: Any, model: Any, batch: Any, *, is_fresh: bool = True) -> None:
    """As the loop does: the losses, and then everything."""
    torch.manual_seed(0)
    check_first_step(
        model, objective, [batch], lambda _: objective.losses(model, batch), is_fresh=is_fresh
    )


def of_text(kind: str, tiny: Any, text: Any, make_batch: Any, **changes: Any) -> Any:
    objective, task = {
        "bert": (MASKED, "masked_lm"),
        "gpt2": (CAUSAL, "causal_lm"),
        "llama": (CAUSAL, "causal_lm"),
        "t5": (SPANS, "seq2seq_lm"),
    }[kind]
    return objective, tiny(kind, task, **changes), make_batch(objective, texts(text))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_a_fresh_language_model_passes(kind: str, tiny: Any, text: Any, make_batch: Any) -> None:
    check(*of_text(kind, tiny, text, make_batch))


def test_packed_documents_pass(tiny: Any, text: Any, make_batch: Any) -> None:
    document = np.array([0] * 7 + [1] * 5 + [-1] * 3)
    batch = make_batch(CAUSAL, [{"ids": text(15), "document": document}])
    check(CAUSAL, tiny("llama", "causal_lm"), batch)


@pytest.mark.parametrize(
    "problem_type", ["single_label_classification", "multi_label_classification"]
)
def test_a_fresh_classifier_passes(
    problem_type: Any, tiny: Any, text: Any, make_batch: Any
) -> None:
    config = SequenceClassificationConfig(problem_type=problem_type)
    objective = SequenceClassification(config, VOCABULARY)
    label = 1 if problem_type.startswith("single") else [1, 0]
    rows = [row | {"label": np.array(label)} for row in texts(text)]
    check(objective, tiny("bert", "sequence_classification"), make_batch(objective, rows))


def test_a_fresh_reader_and_a_fresh_tagger_pass(tiny: Any, text: Any, make_batch: Any) -> None:
    reader, tagger = QuestionAnswering(VOCABULARY), TokenClassification(VOCABULARY)
    rows = [row | {"start": np.array(3), "end": np.array(5)} for row in texts(text)]
    check(reader, tiny("bert", "question_answering"), make_batch(reader, rows))
    rows = [row | {"labels": row["ids"] % 2} for row in texts(text)]
    check(tagger, tiny("bert", "token_classification"), make_batch(tagger, rows))


def towers(tiny: Any, seeds: tuple[int, ...], width: int = 512) -> TwoTowers:
    return TwoTowers(
        *[TextTower(tiny("bert", "body", seed=seed), width=width, seed=seed) for seed in seeds]
    )


def pair_batch(text: Any, make_batch: Any) -> Any:
    rows = [{"first_ids": text(9, i), "second_ids": text(9, 50 + i)} for i in range(8)]
    return make_batch(PAIRS, rows)


def test_fresh_towers_pass_with_one_encoder_or_two(tiny: Any, text: Any, make_batch: Any) -> None:
    batch = pair_batch(text, make_batch)
    check(PAIRS, TwoTowers(TextTower(tiny("bert", "body"))), batch)
    check(PAIRS, towers(tiny, (1, 2), width=32), batch)


def test_fresh_towers_that_are_far_from_ln_b_are_stopped(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    """Two towers with the same weights, and on both sides the same texts: they see the answers."""
    batch = pair_batch(text, make_batch)
    batch |= {f"second_{name}": batch[f"first_{name}"] for name in ("ids", "valid")}
    model = towers(tiny, (1, 1)).eval()
    with pytest.raises(TrainingError, match=r"info_nce loss is .*ln 8 = 2.079: a fresh model can"):
        check(PAIRS, model, batch)


def test_a_student_that_knows_something_passes(tiny: Any, text: Any, make_batch: Any) -> None:
    teacher = tiny("bert", "masked_lm")
    objective = Distillation(DistillationConfig(), MASKED, teacher)
    batch = make_batch(objective, texts(text))
    check(objective, student_of(teacher, 1), batch, is_fresh=False)


# -- labels all masked


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_labels_that_are_all_masked_are_stopped(
    kind: str, tiny: Any, text: Any, make_batch: Any
) -> None:
    """Pitfall 5."""
    objective, model, batch = of_text(kind, tiny, text, make_batch)
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    with pytest.raises(TrainingError, match="no valid target in the first batch"):
        check_batch(model, objective, batch)


# -- wrong vocabulary


@pytest.mark.parametrize(
    ("name", "number"), [("ids", 61), ("ids", -1), ("labels", 61), ("labels", -1)]
)
def test_an_id_that_the_model_has_not_is_stopped(
    name: str, number: int, tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, model, batch = of_text("gpt2", tiny, text, make_batch)
    batch[name][2, 3] = number
    with pytest.raises(TrainingError, match=f"{name} of the first batch hold {number}, and the mo"):
        check_batch(model, objective, batch)


def test_a_source_id_that_the_model_has_not_is_stopped(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, model, batch = of_text("t5", tiny, text, make_batch, vocab_size=60)
    with pytest.raises(TrainingError, match="hold 60, and the model has 60 tokens, 0 to 59"):
        batch["source_ids"][0, 0] = 60
        check_batch(model, objective, batch)


def test_a_class_that_the_model_has_not_is_stopped(tiny: Any, text: Any, make_batch: Any) -> None:
    objective = SequenceClassification(SequenceClassificationConfig(), VOCABULARY)
    batch = make_batch(objective, [row | {"label": np.array(2)} for row in texts(text)])
    with pytest.raises(TrainingError, match="hold 2, and the model has 2 classes, 0 to 1"):
        check_batch(tiny("bert", "sequence_classification"), objective, batch)


def test_a_towers_id_out_of_range_is_stopped(tiny: Any, text: Any, make_batch: Any) -> None:
    batch = pair_batch(text, make_batch)
    batch["second_ids"][0, 0] = 99
    with pytest.raises(TrainingError, match="second_ids of the first batch hold 99"):
        check_batch(towers(tiny, (1, 2)), PAIRS, batch)


def test_a_tokenizer_larger_than_the_model_is_stopped(tiny: Any) -> None:
    model = tiny("gpt2", "causal_lm")
    check_vocabulary(model, 61)
    with pytest.raises(TrainingError, match="the tokenizer has 62 tokens and the model 61"):
        check_vocabulary(model, 62)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_fresh_model_far_from_ln_v_is_stopped(
    kind: str, tiny: Any, text: Any, make_batch: Any
) -> None:
    of = of_text(kind, tiny, text, make_batch, initializer_range=0.8)
    with pytest.raises(TrainingError, match=r"ln 61 = 4.111: a fresh model cannot be that wrong"):
        check(*of)


def test_a_fresh_model_that_sees_the_answers_is_stopped(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    """Nothing is hidden, and a tied head reads it off the embeddings."""
    objective = MaskedLM(MaskedLMConfig(mask_share=0, random_share=0), VOCABULARY)
    batch = make_batch(objective, texts(text))
    model = tiny("bert", "masked_lm")
    with torch.no_grad():
        model.dense.weight.copy_(torch.eye(32))
        model.body.embedding.weight.mul_(30)
    with pytest.raises(TrainingError, match="unless it sees the answers"):
        check(objective, model.eval(), batch)


def test_a_loss_that_is_no_number_is_stopped(tiny: Any, text: Any, make_batch: Any) -> None:
    objective, model, batch = of_text("gpt2", tiny, text, make_batch)
    with torch.no_grad():
        model.body.norm.weight[0] = math.nan
    with pytest.raises(TrainingError, match="the first causal_lm loss is nan"):
        check(objective, model, batch)


# -- shuffled labels


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_decoders_shuffled_labels_are_stopped(
    kind: str, tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, model, batch = of_text(kind, tiny, text, make_batch)
    batch["labels"] = batch["labels"][torch.randperm(6, generator=torch.Generator().manual_seed(0))]
    with pytest.raises(TrainingError, match=r"the next token is \d+: labels are shuffled"):
        check(objective, model, batch)


def test_labels_that_are_not_moved_by_one_are_stopped(
    tiny: Any, text: Any, make_batch: Any
) -> None:
    objective, model, batch = of_text("llama", tiny, text, make_batch)
    batch["labels"] = batch["ids"].clone()
    with pytest.raises(TrainingError, match="not moved by one"):
        check(objective, model, batch)


def test_a_label_across_documents_is_stopped(tiny: Any, text: Any, make_batch: Any) -> None:
    document = np.array([0] * 7 + [1] * 8)
    batch = make_batch(CAUSAL, [{"ids": text(15), "document": document}])
    batch["labels"][0, 6] = batch["ids"][0, 7]
    with pytest.raises(TrainingError, match="place 6, the last of its document"):
        check(CAUSAL, tiny("llama", "causal_lm"), batch)


def test_an_encoders_shuffled_labels_are_stopped(tiny: Any, text: Any, make_batch: Any) -> None:
    batch = make_batch(MASKED, [{"ids": text(60, i) % 52 + 5} for i in range(8)])
    model = tiny("bert", "masked_lm")
    check_batch(model, MASKED, batch)
    batch["labels"] = batch["labels"].roll(1, dims=0)
    with pytest.raises(TrainingError, match=r"chosen tokens that are not masked.*shuffled"):
        check_batch(model, MASKED, batch)


def test_a_trained_model_that_is_worse_than_a_guess_is_stopped(
    tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    """Another tokenizer's ids: each text is well formed, and none is what the model learned."""
    objective, model, batch = of_text("gpt2", tiny, text, make_batch)
    learn(objective, model, batch, steps=60, lr=1e-2)
    check(objective, model, batch, is_fresh=False)
    other = make_batch(objective, [{"ids": (row["ids"] + 17) % 61} for row in texts(text)])
    with pytest.raises(TrainingError, match="a trained model must not be worse"):
        check(objective, model, other, is_fresh=False)


def test_a_model_that_was_trained_already_is_no_fresh_one(
    tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    objective, model, batch = of_text("gpt2", tiny, text, make_batch)
    learn(objective, model, batch, steps=60, lr=1e-2)
    with pytest.raises(TrainingError, match="a fresh model cannot know more"):
        check(objective, model, batch, is_fresh=True)


# -- un-tied weights


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_head_that_came_apart_from_the_embedding_is_stopped(kind: str, tiny: Any) -> None:
    model = tiny(kind, "causal_lm" if kind == "gpt2" else "seq2seq_lm")
    check_tied(model)
    model.lm_head = nn.Linear(32, 61, bias=False)
    with pytest.raises(TrainingError, match=r"lm_head and body\.embedding have a weight each"):
        check_tied(model)
    model.lm_head.weight = model.body.embedding.weight
    check_tied(model)


def test_embeddings_that_came_apart_when_one_was_wrapped_are_stopped() -> None:
    model = marian()
    check_tied(model)
    model.body.embedding = copy.deepcopy(model.body.embedding)
    with pytest.raises(TrainingError, match=r"body\.target_embedding and body\.embedding have"):
        check_tied(model)


def test_embeddings_that_the_config_keeps_apart_pass(tiny: Any) -> None:
    check_tied(marian(share_encoder_decoder_embeddings=False, decoder_vocab_size=50))
    check_tied(tiny("llama", "causal_lm", tie_word_embeddings=False))
    check_tied(nn.Linear(2, 2))


def marian(**changes: Any) -> Any:
    from pharos.models.load import new_model

    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    raw = {"model_type": "transformer", "vocab_size": 61, "decoder_vocab_size": 61}
    return new_model(raw | sizes | changes, "seq2seq_lm")
