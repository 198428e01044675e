from typing import Any

import pytest

from pharos.train.planner.configured import configured_shape
from pharos.train.planner.shapes import (
    SHAPES,
    assumed_shape,
    known_shape,
    numbered_shape,
)

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}
LLAMA_70B = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
LLAMA_3 = {"vocab_size": 128256, "max_position_embeddings": 8192, "num_key_value_heads": 8}
MISTRAL = LLAMA | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}
GPT: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 50257,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": GPT | {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt3-175b": GPT | {"n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048},
    "llama-65b": LLAMA_70B
    | {"intermediate_size": 22016, "num_key_value_heads": 64, "max_position_embeddings": 2048},
    "llama-2-7b": LLAMA,
    "llama-2-13b": LLAMA
    | {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
    "llama-2-70b": LLAMA_70B,
    "llama-3-8b": LLAMA | LLAMA_3 | {"intermediate_size": 14336},
    "llama-3-70b": LLAMA_70B | LLAMA_3,
    "mistral-7b": MISTRAL | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    "mixtral-8x7b": MISTRAL
    | {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_known_shapes_are_those_of_the_networks(shape: Any) -> None:
    config = CONFIGS[shape.name]
    assert configured_shape(shape.name, config) == shape


def test_an_encoder_is_no_decoder_and_as_wide_as_its_config_says() -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    raw = {"model_type": "albert", "architectures": ["AlbertModel"], "vocab_size": 30000}
    albert = configured_shape("albert", raw | sizes | {"intermediate_size": 3072})
    assert not albert.is_decoder
    assert (albert.hidden_size, albert.num_layers) == (768, 12)


def test_an_encoder_decoder_is_planned_by_all_its_layers() -> None:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    named = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
    t5 = configured_shape("t5", named | sizes | {"vocab_size": 320})
    assert not t5.is_decoder
    assert t5.num_layers == 2 + 2 * 2


def test_a_name_is_known_in_any_case() -> None:
    assert known_shape("LLaMA-2-7b") == known_shape("llama-2-7b")
    assert known_shape("llama-9") is None


@pytest.mark.parametrize(
    ("parameters", "layers", "width"),
    [(125e6, 12, 768), (6.7e9, 32, 4096), (13e9, 40, 5120), (175e9, 96, 12288)],
)
def test_an_assumed_shape_is_near_the_gpt_3_of_its_size(
    parameters: float, layers: int, width: int
) -> None:
    shape = assumed_shape(parameters)
    assert shape.num_layers == pytest.approx(layers, rel=0.15)
    assert shape.hidden_size == pytest.approx(width, rel=0.15)
    assert shape.num_heads * shape.head_dim == shape.hidden_size


@pytest.mark.parametrize("parameters", [1e3, 1e6, 1e9, 1e13])
def test_an_assumed_shape_has_about_its_parameters(parameters: float) -> None:
    shape = assumed_shape(parameters)
    assert shape.num_parameters == parameters
    assert shape.num_embedding_parameters <= parameters / 3 + 1


def test_numbers_that_no_model_has_are_named() -> None:
    with pytest.raises(ValueError, match="layers is 0; it must be at least 1"):
        numbered_shape(7e9, layers=0, kv_heads=8, head_dim=128)
