import json


def test_list_says_where_the_encoder_is(pharos) -> None:
    (model,) = json.loads(pharos("models", "list", "--json").out)["models"]
    assert model["name"] == "all-MiniLM-L6-v2"
    assert model["folder"].endswith("model")
    assert "all-MiniLM-L6-v2" in pharos("models", "list").out


def test_show_says_whether_the_weights_are_the_published_ones(pharos) -> None:
    model = json.loads(pharos("models", "show", "all-MiniLM-L6-v2", "--json").out)
    assert model["published"] is True
    assert model["hidden_size"] == 384


def test_an_unknown_model_is_one_line_with_the_choices(pharos) -> None:
    run = pharos("models", "show", "minilm")
    assert run.code == 1
    assert len(run.err.splitlines()) == 1
    assert "all-MiniLM-L6-v2" in run.err
