from typing import Any, Literal

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
from pharos.models.load import build_model, new_model
from pharos.models.longformer import first_places
from pharos.ops import pack

SEP = 2
LONGFORMER: dict[str, Any] = SIZES | {
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "attention_window": [4, 8],
    "sep_token_id": SEP,
    "pad_token_id": 1,
    "bos_token_id": 0,
}
CONFIG = transformers.LongformerConfig(**LONGFORMER)
HEADS = ["MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering"]
GLOBAL = {"none": 0.0, "few": 0.1, "many": 0.6}


def batch(lengths: list[int], side: Literal["left", "right"] = "right") -> Padded:
    """Each text is a question of three tokens, two separators, and the rest."""
    padded = Padded.random(lengths, side)
    ids_BT = padded.ids_BT.clamp(min=3)
    for row, valid_T in enumerate(padded.valid_BT):
        first = int(valid_T.long().argmax())
        ids_BT[row, [first + 3, first + 4, first + int(valid_T.sum()) - 1]] = SEP
    return Padded(ids_BT.where(padded.valid_BT, 1), padded.valid_BT)


def outputs(pair: Pair, padded: Padded, global_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ours and theirs, without what stands at padding."""
    of_theirs = {} if global_BT is None else {"global_attention_mask": global_BT.long()}
    ours = pair.ours(padded.ids_BT, valid_BT=padded.valid_BT, global_BT=global_BT)
    theirs = pair.theirs(padded.ids_BT, attention_mask=padded.valid_BT.long(), **of_theirs)
    if isinstance(ours, tuple):
        ours, expected = torch.stack(ours, -1), torch.stack((theirs[0], theirs[1]), -1)
    else:
        expected = theirs[0]
    if ours.ndim == 2:
        return ours, expected
    return ours[padded.valid_BT], expected[padded.valid_BT]


@pytest.mark.parametrize("share", GLOBAL)
@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_gradients_equal_the_references(side: Any, share: str) -> None:
    pair, padded = pair_of(CONFIG, ""), batch([60, 9, 31], side)
    generator = torch.Generator().manual_seed(0)
    global_BT = torch.rand(3, 60, generator=generator) < GLOBAL[share]
    global_BT[1] = False
    ours, theirs = outputs(pair, padded, global_BT)
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_computes_learns_and_is_saved_as_in_the_reference(head: str) -> None:
    pair = pair_of(CONFIG, f"For{head}")
    ours, theirs = outputs(pair, batch([40, 12]))
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


@torch.no_grad()
def test_bfloat16_is_near_the_reference_in_float32() -> None:
    pair, global_BT = pair_of(CONFIG, "", dtype=torch.bfloat16), torch.arange(40) < 3
    pair.theirs.float()
    ours, theirs = outputs(pair, batch([40, 12]), global_BT.expand(2, -1))
    assert ours.dtype == torch.bfloat16
    assert_close(ours, theirs, within=1e-2)


@pytest.fixture(scope="module")
def body() -> Any:
    return pair_of(CONFIG, "").ours.requires_grad_(False)


def changed_by(body: Any, place: int, global_BT: Tensor | None) -> list[int]:
    """Where hidden states change when the token at `place` does."""
    ids_BT = batch([60]).ids_BT
    other_BT = ids_BT.clone()
    other_BT[0, place] = 3 + ids_BT[0, place] % 90
    before = body(ids_BT, global_BT=global_BT)
    after = body(other_BT, global_BT=global_BT)
    differs_T = (before - after)[0].abs().amax(-1) > 1e-6
    return differs_T.nonzero()[:, 0].tolist()


def test_a_token_reaches_as_far_as_the_windows_together(body: Any) -> None:
    assert changed_by(body, 30, None) == list(range(30 - 6, 30 + 7))


def test_through_a_global_token_all_hear_of_all(body: Any) -> None:
    global_BT = torch.arange(60)[None] == 0
    assert changed_by(body, 30, global_BT) == list(range(60))
    assert changed_by(body, 0, global_BT) == list(range(60))


def test_a_packed_batch_equals_one_text_at_a_time(body: Any) -> None:
    texts = [random_ids(1, length, seed=length).clamp(min=2) for length in (33, 40, 5)]
    packed = pack([text[0].tolist() for text in texts], pad_id=1)
    is_first_N = packed.positions == 0
    hidden_ND = body.encode(packed._replace(is_global=is_first_N))
    rows = [
        row for run in packed.runs for row in hidden_ND[run.rows].view(run.texts, run.length, -1)
    ]
    for text_1T, row_TD in zip(texts, rows, strict=True):
        global_1T = torch.arange(text_1T.shape[1])[None] == 0
        assert_close(row_TD[: text_1T.shape[1]], body(text_1T, global_BT=global_1T)[0])


def test_marked_places_come_first_and_in_order() -> None:
    marked_BT = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]]).bool()
    assert first_places(marked_BT).tolist() == [[1, 3], [2, 0]]


def test_a_question_without_an_end_is_an_error_that_says_so() -> None:
    model = pair_of(CONFIG, "ForQuestionAnswering").ours
    with pytest.raises(ValueError, match="without the separator 2: it ends the question"):
        model(torch.full((1, 9), 7))
    model(torch.full((1, 9), 7), global_BT=torch.zeros(1, 9))


def test_one_window_may_serve_all_layers() -> None:
    raw = LONGFORMER | {"model_type": "longformer", "attention_window": 8}
    config = new_model(raw, "masked_lm").config
    assert config.attention_window == (8, 8)
    assert config.to_hugging_face()["attention_window"] == (8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_window": [6, 7]}, "attention_window is 7; it must be even"),
        ({"attention_window": [6]}, "attention_window has 1 entries for 2 layers"),
        ({"attention_window": "wide"}, "attention_window"),
        ({"pad_token_id": None}, "pad_token_id is None; positions begin after it"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(LONGFORMER | {"model_type": "longformer"} | changes, "masked_lm")
