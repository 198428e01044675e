import pytest
import torch
from encoder_configs import BERT, CONFIGS, Batch
from oracle import Padded, assert_close, assert_saved_for_theirs, pair_of, transformers

from pharos.core import ModelError
from pharos.models.load import build_model

RELATIVES = [
    transformers.XLMRobertaConfig(**BERT | {"pad_token_id": 1}),
    transformers.CamembertConfig(**BERT | {"pad_token_id": 1}),
    transformers.RobertaConfig(**BERT | {"pad_token_id": 3}),
]


@pytest.mark.parametrize("config", RELATIVES, ids=["xlm-roberta", "camembert", "padding is 3"])
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification"])
def test_the_relatives_and_other_padding_tokens_equal_the_reference(
    config: transformers.PreTrainedConfig, head: str
) -> None:
    pair = pair_of(config, head)
    ours, theirs = Batch(config, Padded.random([5, 12], "right")).outputs(pair)
    assert_close(ours, theirs)
    assert_saved_for_theirs(pair)


@torch.no_grad()
def test_positions_are_counted_over_what_is_not_the_padding_token() -> None:
    pair = pair_of(CONFIGS["roberta"], "")
    ids_BT = torch.tensor([[0, 5, 0, 6, 7], [8, 0, 0, 9, 5]])
    assert pair.ours.positions(ids_BT).tolist() == [[-1, 0, -1, 1, 2], [0, -1, -1, 1, 2]]
    assert_close(pair.ours(ids_BT), pair.theirs_of(ids_BT))


def test_the_first_rows_of_the_position_table_are_not_for_tokens() -> None:
    assert pair_of(RELATIVES[2], "").ours.max_positions == 64 - 4


@pytest.mark.parametrize("pad", [None, -1, 63, 64])
def test_a_padding_token_that_leaves_no_positions_is_refused(pad: int | None) -> None:
    raw = CONFIGS["roberta"].to_dict() | {"pad_token_id": pad, "id2label": None}
    with pytest.raises(ModelError, match=f"pad_token_id is {pad}; positions begin after it"):
        build_model(raw, "body")
