from typing import Any

import pytest
import torch
from oracle import (
    SIZES,
    Padded,
    Pair,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    pair_of,
    random_ids,
    transformers,
)
from torch import Tensor

from pharos.core import ModelError
from pharos.models.load import build_model, load_model, new_model, save_model

SEP, POOLER = 5, r"(bert\.)?pooler\."
BIGBIRD: dict[str, Any] = SIZES | {
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "block_size": 4,
    "num_random_blocks": 2,
    "sep_token_id": SEP,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SHORTEST_IN_BLOCKS = (5 + 2 * 2) * 4 + 1
CONFIGS = {
    "blocks": transformers.BigBirdConfig(**BIGBIRD),
    "blocks, no bias, scaled": transformers.BigBirdConfig(
        **BIGBIRD, use_bias=False, rescale_embeddings=True, hidden_act="gelu"
    ),
    "in full": transformers.BigBirdConfig(**BIGBIRD, attention_type="original_full"),
}
HEADS = ["MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering"]


def batch(lengths: list[int], side: Any = "right") -> Padded:
    """The fourth and the last token of each text are separators."""
    padded = Padded.random(lengths, side)
    ids_BT = padded.ids_BT.where(padded.ids_BT != SEP, 6)
    for row, valid_T in enumerate(padded.valid_BT):
        first = int(valid_T.long().argmax())
        ids_BT[row, [first + 3, first + int(valid_T.sum()) - 1]] = SEP
    return Padded(ids_BT, padded.valid_BT)


def outputs(pair: Pair, padded: Padded) -> tuple[Tensor, Tensor]:
    """Ours and theirs, without what stands at padding, and without the question to be answered."""
    ours = pair.ours(padded.ids_BT, valid_BT=padded.valid_BT)
    theirs = pair.theirs(padded.ids_BT, attention_mask=padded.valid_BT.long())
    compared_BT = padded.valid_BT.clone()
    if isinstance(ours, tuple):
        compared_BT[:, 1:4] = False
        ours, expected = torch.stack(ours, -1), torch.stack((theirs[0], theirs[1]), -1)
    else:
        expected = theirs[0]
    if ours.ndim == 2:
        return ours, expected
    return ours[compared_BT], expected[compared_BT]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_head_computes_learns_and_is_saved_as_in_the_reference(name: str, head: str) -> None:
    pair = pair_of(CONFIGS[name], f"For{head}")
    ours, theirs = outputs(pair, batch([62, 9, 40]))
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair, without=POOLER)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("length", [20, SHORTEST_IN_BLOCKS - 1, SHORTEST_IN_BLOCKS, 64, 101, 128])
def test_hidden_states_and_gradients_equal_the_references(length: int, training: bool) -> None:
    pair = pair_of(CONFIGS["blocks"], "")
    pair.ours.train(training)
    pair.theirs.train(training)
    ours, theirs = outputs(pair, batch([length, 9, length - 5], "left"))
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("positions", [1024, 2048])
@torch.no_grad()
def test_the_papers_lengths_equal_the_references(positions: int, training: bool) -> None:
    sizes = {"max_position_embeddings": positions, "block_size": 64, "num_random_blocks": 3}
    pair = pair_of(transformers.BigBirdConfig(**BIGBIRD | sizes), "")
    pair.ours.train(training)
    pair.theirs.train(training)
    ours, theirs = outputs(pair, batch([1024]))
    assert_close(ours, theirs)


@torch.no_grad()
def test_bfloat16_is_near_the_reference_in_float32() -> None:
    pair = pair_of(CONFIGS["blocks"], "ForMaskedLM", dtype=torch.bfloat16)
    pair.theirs.float()
    ours, theirs = outputs(pair, batch([62, 40]))
    assert ours.dtype == torch.bfloat16
    assert_close(ours, theirs, within=1e-2)


@torch.no_grad()
def test_a_short_text_does_not_change_how_long_ones_are_read_after_it() -> None:
    body, ids_BT = pair_of(CONFIGS["blocks"], "").ours, random_ids(1, 60)
    before = body(ids_BT)
    body(random_ids(1, 9))
    assert torch.equal(body(ids_BT), before)


@torch.no_grad()
def test_far_tokens_are_looked_at_by_the_ends_only() -> None:
    """After one layer, in evaluation: the first and the last block look at all, and all at them."""
    config = transformers.BigBirdConfig(**BIGBIRD | {"num_hidden_layers": 1})
    body, ids_BT = pair_of(config, "").ours, random_ids(1, 60)
    other_BT = ids_BT.clone()
    other_BT[0, 30] = 1 + ids_BT[0, 30] % 90
    differs_T = (body(ids_BT) - body(other_BT))[0].abs().amax(-1) > 1e-6
    blocks = (differs_T.nonzero()[:, 0] // 4).unique().tolist()
    assert blocks == [0, 6, 7, 8, 14]


def test_a_question_without_an_end_is_an_error_that_says_so() -> None:
    model = pair_of(CONFIGS["blocks"], "ForQuestionAnswering").ours
    with pytest.raises(ValueError, match="without the separator 5, which ends the question"):
        model(torch.full((1, 9), 7))


@torch.no_grad()
def test_no_answer_lies_in_the_question() -> None:
    model = pair_of(CONFIGS["blocks"], "ForQuestionAnswering").ours
    start_BT, end_BT = model(batch([20]).ids_BT)
    assert (torch.stack((start_BT, end_BT))[:, :, 1:4] < -1e5).all()
    assert (torch.stack((start_BT, end_BT))[:, :, [0, 4, 19]] > -1e5).all()


def test_a_pre_training_checkpoint_is_a_masked_lm(tmp_path: Any) -> None:
    torch.manual_seed(0)
    theirs = transformers.BigBirdForPreTraining(CONFIGS["in full"]).eval()
    theirs.save_pretrained(tmp_path)
    ids_BT = random_ids(2, 9)
    assert_close(load_model(tmp_path)(ids_BT), theirs(ids_BT).prediction_logits)


def test_a_reward_is_the_score_of_a_classifier_with_one_class(tmp_path: Any) -> None:
    raw = BIGBIRD | {"model_type": "big_bird"}
    reward = new_model(raw, "reward").eval()
    save_model(reward, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids_BT = random_ids(2, 9)
    assert_close(reward(ids_BT), theirs(ids_BT).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_type": "sparse"}, "attention_type is 'sparse'; choose from block_sparse"),
        ({"block_size": 0}, "block_size is 0"),
        ({"num_random_blocks": -1}, "num_random_blocks is -1"),
        ({"is_decoder": True}, "is_decoder is True; only False is built here"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(BIGBIRD | {"model_type": "big_bird"} | changes, "masked_lm")
