from encoder_configs import CONFIGS
from oracle import assert_saved_for_theirs, pair_of

RATES = {"dropout": 0.25, "attention_dropout": 0.5, "seq_classif_dropout": 0.75, "qa_dropout": 0.3}


def test_each_head_drops_as_much_as_its_own_setting_says() -> None:
    config = CONFIGS["distilbert"].__class__(**CONFIGS["distilbert"].to_dict() | RATES)
    expected = {
        "ForSequenceClassification": 0.75,
        "ForTokenClassification": 0.25,
        "ForQuestionAnswering": 0.3,
    }
    for head, rate in expected.items():
        pair = pair_of(config, head)
        assert pair.ours.dropout.p == rate
        assert pair.ours.body.layers[0].dropout.p == 0.25
        assert pair.ours.body.layers[0].attention.dropout == 0.5
        assert_saved_for_theirs(pair)
