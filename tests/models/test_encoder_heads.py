"""What holds for the heads of every encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_configs import CONFIGS, Batch
from oracle import (
    Padded,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    pair_of,
    random_ids,
    random_model,
)

from pharos.core import ModelError
from pharos.models.load import family_of, load_model, save_model

HEADS = ["MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering"]
FAMILIES = ["bert", "roberta", "distilbert", "albert", "deberta v3"]


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


@pytest.mark.parametrize("head", HEADS)
def test_a_head_computes_learns_and_is_saved_as_in_the_reference(config: Any, head: str) -> None:
    pair = pair_of(config, f"For{head}")
    ours, theirs = Batch(config, Padded.random([5, 12], "right")).outputs(pair)
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


@torch.no_grad()
def test_bfloat16_logits_are_near_the_references_in_float32(config: Any) -> None:
    pair = pair_of(config, "ForMaskedLM", dtype=torch.bfloat16)
    assert_saved_for_theirs(pair)
    pair.theirs.float()
    ours, theirs = Batch(config, Padded.random([5, 12], "right")).outputs(pair)
    assert ours.dtype == torch.bfloat16
    assert_close(ours, theirs, within=1e-2)


def with_classes(config: Any, *names: str) -> Any:
    changed = type(config)(**config.to_dict())
    changed.id2label = dict(enumerate(names))
    changed.label2id = {name: i for i, name in enumerate(names)}
    return changed


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reward_is_the_score_of_a_classifier_with_one_class(name: str) -> None:
    pair = pair_of(with_classes(CONFIGS[name], "good"), "ForSequenceClassification", task="reward")
    ours, theirs = Batch(CONFIGS[name], Padded.random([5, 12], "right")).outputs(pair)
    assert ours.shape == (2, 1)
    assert_close(ours, theirs)
    assert_saved_for_theirs(pair)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reward_on_a_body_for_several_classes_is_saved_with_one(
    name: str, tmp_path: Path
) -> None:
    body = pair_of(CONFIGS[name], "").ours
    assert body.config.num_labels == 2
    save_model(family_of(body.config.model_type).tasks["reward"](body), tmp_path)
    assert load_model(tmp_path).config.num_labels == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_names_of_the_classes_stay(name: str) -> None:
    pair = pair_of(with_classes(CONFIGS[name], "LOC", "ORG", "PER"), "ForTokenClassification")
    assert pair.ours.config.labels == ("LOC", "ORG", "PER")
    assert_saved_for_theirs(pair)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_masked_lm_has_the_embedding_as_its_last_matrix_and_no_copy(name: str) -> None:
    pair = pair_of(CONFIGS[name], "ForMaskedLM")
    count = sum(parameter.numel() for parameter in pair.ours.parameters())
    assert count == sum(parameter.numel() for parameter in pair.theirs.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_body_of_any_checkpoint_can_be_loaded_and_a_head_it_lacks_is_named(
    name: str, tmp_path: Path
) -> None:
    theirs = random_model(CONFIGS[name], "ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    ids_BT = random_ids(2, 7).clamp(min=2)
    with torch.no_grad():
        expected = theirs.base_model(ids_BT)[0]
        assert_close(load_model(tmp_path, task="body")(ids_BT), expected)
    with pytest.raises(ModelError, match=r"classifier.*\.weight is missing"):
        load_model(tmp_path, task="sequence_classification")
    with pytest.raises(
        ModelError, match="has no head for 'causal_lm'; choose from body, masked_lm"
    ):
        load_model(tmp_path, task="causal_lm")


def test_an_untied_masked_lm_is_refused(config: Any) -> None:
    family = family_of(config.model_type)
    body = family.body(family.config.from_hugging_face(config.to_dict() | {"id2label": None}))
    body.config = replace(body.config, tie_word_embeddings=False)
    with pytest.raises(ModelError, match="tie_word_embeddings is False"):
        family.tasks["masked_lm"](body)
