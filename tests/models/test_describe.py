from typing import Any

import pytest
import torch

from pharos.core import ModelError
from pharos.models.describe import BYTES, ModelDescription, describe, describe_config
from pharos.models.kv_cache import KVCache
from pharos.models.load import build_model

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
LLAMA_8B = LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
LLAMA_70B = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
MISTRAL_7B = LLAMA_8B | {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "vocab_size": 32000,
}
MIXTRAL_8X7B = MISTRAL_7B | {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "sliding_window": None,
}
QWEN_7B = LLAMA | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
}
FALCON_7B: dict[str, Any] = {
    "model_type": "falcon",
    "architectures": ["FalconForCausalLM"],
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
}
BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
ALBERT = BERT | {"model_type": "albert", "architectures": ["AlbertModel"], "vocab_size": 30000}
T5: dict[str, Any] = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
}


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (LLAMA_8B, 8_030_261_248),
        (LLAMA_70B, 70_553_706_496),
        (MISTRAL_7B, 7_241_732_096),
        (MIXTRAL_8X7B, 46_702_792_704),
        (QWEN_7B, 7_615_616_512),
        (GPT2, 124_439_808),
        (FALCON_7B, 6_921_720_704),
        (T5, 60_506_624),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_known_models_have_the_published_number_of_parameters(
    config: dict[str, Any], published: int
) -> None:
    description = describe_config(config)
    assert description.num_parameters == published
    assert sum(part.num_parameters for part in description.parts) == published


def test_a_token_meets_two_of_the_eight_experts() -> None:
    mixtral, mistral = describe_config(MIXTRAL_8X7B), describe_config(MISTRAL_7B)
    assert round(mixtral.num_active_parameters / 1e9, 1) == 12.9
    one_expert = 32 * 3 * 4096 * 14336
    routers = 32 * 8 * 4096
    assert mixtral.num_active_parameters == mistral.num_parameters + one_expert + routers
    extra = mixtral.linear_flops_per_token() - mistral.linear_flops_per_token()
    assert extra == 2 * (one_expert + routers)


def test_an_embedding_that_is_the_output_too_counts_as_one_and_multiplies() -> None:
    tied, untied = (describe_config(GPT2 | {"tie_word_embeddings": tie}) for tie in (True, False))
    assert untied.num_parameters - tied.num_parameters == 50257 * 768
    assert untied.num_non_embedding_parameters == tied.num_non_embedding_parameters
    assert untied.linear_flops_per_token() == tied.linear_flops_per_token()


def test_shared_layers_count_once_and_multiply_each_time() -> None:
    albert, one_layer = describe_config(ALBERT), describe_config(ALBERT | {"num_hidden_layers": 1})
    assert albert.num_parameters == one_layer.num_parameters
    in_a_layer = 4 * 768 * 768 + 2 * 768 * 3072
    extra = albert.linear_flops_per_token() - one_layer.linear_flops_per_token()
    assert extra == 2 * 11 * in_a_layer


@pytest.mark.parametrize("config", [LLAMA_8B, GPT2, FALCON_7B, MIXTRAL_8X7B])
def test_the_cache_grows_by_what_is_said(config: dict[str, Any]) -> None:
    small = {"vocab_size": 50, "num_hidden_layers": 2, "n_layer": 2, "intermediate_size": 8}
    config = config | small | {"ffn_hidden_size": 8}
    model = build_model(config, "causal_lm").requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    cache = KVCache(num_layers=2, capacity=16)
    model(torch.ones(1, 16, dtype=torch.long), cache=cache)
    assert cache.num_bytes == 16 * describe(model, "causal_lm").kv_bytes_per_token("fp32")


def test_encoders_keep_nothing_for_the_next_token() -> None:
    assert [describe_config(BERT).kv_bytes_per_token(dtype) for dtype in BYTES] == [0, 0, 0]


def test_smaller_numbers_take_less_memory() -> None:
    description = describe_config(LLAMA_8B)
    fp32, bf16 = description.weight_bytes("fp32"), description.weight_bytes("bf16")
    assert fp32 == 2 * bf16 == 4 * 8_030_261_248
    assert bf16 / 2 < description.weight_bytes("int8") < 0.6 * bf16
    assert bf16 / 4 < description.weight_bytes("nf4") < 0.4 * bf16


def attention_flops(description: ModelDescription, *contexts: int) -> list[int]:
    return [description.attention_flops_per_token(context) for context in contexts]


def test_attention_costs_as_much_as_it_sees() -> None:
    assert attention_flops(describe_config(LLAMA_8B), 1, 1000) == [524_288, 524_288_000]


def test_a_window_bounds_the_cost_of_attention() -> None:
    windowed = describe_config(MISTRAL_7B | {"sliding_window": 4096})
    full = describe_config(MISTRAL_7B | {"sliding_window": None})
    assert attention_flops(windowed, 1000) == attention_flops(full, 1000)
    assert attention_flops(windowed, 32_000) == attention_flops(full, 4096)


def test_a_refused_config_says_why() -> None:
    with pytest.raises(ModelError, match="unknown model_type 'mamba'"):
        describe_config({"model_type": "mamba"})
