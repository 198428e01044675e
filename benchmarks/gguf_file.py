"""A Llama of ours as a GGUF file, for llama.cpp: the same weights in another format."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pharos.models.heads import CausalLM

NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.out": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
ROTATED = ("attention.query", "attention.key")


def write_gguf(model: CausalLM, path: Path, kind: str) -> None:
    """`kind` is the format of the matrices: Q8_0 or BF16. Vectors are kept in float32."""
    gguf = import_module("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    _write_sizes(writer, model.config)
    _write_vocabulary(writer, gguf, model.config.vocab_size)
    chosen = gguf.GGMLQuantizationType[kind]
    for name, tensor in _tensors(model).items():
        values = tensor.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_sizes(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_vocabulary(writer: Any, gguf: Any, size: int) -> None:
    """Names that nobody reads: what is measured speaks in ids."""
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    tokens += [f"token{number}" for number in range(len(tokens), size)]
    types += [kinds.NORMAL] * (size - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _tensors(model: CausalLM) -> dict[str, Tensor]:
    body = model.body
    found = {
        "token_embd.weight": body.embedding.weight,
        "output_norm.weight": body.get_parameter("norm.weight"),
    }
    if model.lm_head is not None:
        found["output.weight"] = model.lm_head.weight
    for ours, parameter in body.named_parameters():
        if ours.startswith("blocks."):
            _, layer, part = ours.split(".", 2)
            part = part.removesuffix(".weight")
            is_rotated = part in ROTATED
            value = _interleaved(parameter, model.config.head_dim) if is_rotated else parameter
            found[f"blk.{layer}.{NAMES[part]}.weight"] = value
    return {name: tensor.detach() for name, tensor in found.items()}


def _interleaved(weight_OI: Tensor, head_dim: int) -> Tensor:
    """llama.cpp rotates neighbours with each other, where we rotate the halves of a head."""
    halves = weight_OI.view(-1, 2, head_dim // 2, weight_OI.shape[1])
    return halves.transpose(1, 2).flatten(0, 2).contiguous()


def random_ids(count: int, vocab_size: int, generator: np.random.Generator) -> list[int]:
    """Ids of tokens that are words in every vocabulary here."""
    ids: list[int] = generator.integers(300, vocab_size, count).tolist()
    return ids
