from pathlib import Path
from typing import Any

import pytest

from pharos.core import TrainingError
from pharos.models.load import FAMILY_FILES, family_of
from pharos.train.fresh_config import BESIDE_THE_SIZES, fresh_config
from pharos.train.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
USUAL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
TRANSFORMER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "transformer": TRANSFORMER,
    "marian": TRANSFORMER,
}


def sizes(model_type: str, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, **SIZES.get(model_type, USUAL), **more}


@pytest.mark.parametrize(
    ("model_type", "key", "meant"),
    [
        ("gpt2", "n_layr", "n_layer"),
        ("bert", "hidden_sise", "hidden_size"),
        ("t5", "num_decoder_layer", "num_decoder_layers"),
        ("t5", "feed_forward_proj_", "feed_forward_proj"),
        ("llama", "num_key_value_head", "num_key_value_heads"),
        ("llama", "rope_teta", "rope_theta"),
        ("mixtral", "num_local_expert", "num_local_experts"),
    ],
)
def test_a_key_that_changes_nothing_names_the_nearest(
    model_type: str, key: str, meant: str
) -> None:
    says = rf"model\.config\.{key} changes nothing in a .*{model_type}; did you mean {meant}\?"
    with pytest.raises(TrainingError, match=says):
        fresh_config(sizes(model_type, **{key: 4}))


def test_a_key_of_another_family_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"n_positions changes nothing in a .* t5"):
        fresh_config(sizes("t5", n_positions=512))


@pytest.mark.parametrize("model_type", sorted(FAMILY_FILES))
def test_what_a_model_writes_into_its_config_may_be_copied_into_a_recipe(model_type: str) -> None:
    config = family_of(model_type).config.from_hugging_face(sizes(model_type, vocab_size=50))
    beside = dict.fromkeys(BESIDE_THE_SIZES, "anything")
    assert fresh_config({**beside, **config.to_hugging_face()}) == config


def test_a_tokenizer_tells_how_many_tokens_there_are() -> None:
    assert fresh_config(sizes("gpt2")).vocab_size == 1
    assert fresh_config(sizes("gpt2", vocab_size=50)).vocab_size == 50


def test_a_recipe_with_such_a_key_is_refused_as_it_is_read() -> None:
    raw = {
        "output": "nowhere",
        "model": {"config": sizes("gpt2", n_layr=4)},
        "objective": {"name": "causal_lm"},
        "data": {"sources": {"licence": {"path": "LICENSE"}}, "sequence_length": 8},
        "training": {"steps": 1, "batch_size": 1},
    }
    with pytest.raises(TrainingError, match=r"n_layr .* did you mean n_layer\?"):
        read_recipe(raw)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sizes_in_our_recipes_are_read(path: Path) -> None:
    import yaml

    config = yaml.safe_load(path.read_text()).get("model", {}).get("config")
    if config is not None:
        assert fresh_config(config).model_type == config["model_type"]
