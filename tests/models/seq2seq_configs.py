"""Tiny encoder-decoders of every kind, beside those of `transformers`."""

from typing import Any

import torch
from oracle import VOCAB, Padded, Pair, pair_of, transformers
from torch import Tensor

MARIAN: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 256,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
}
V11 = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CONFIGS = {
    "marian": transformers.MarianConfig(**MARIAN),
    "marian, gelu, not scaled": transformers.MarianConfig(
        **MARIAN | {"activation_function": "gelu", "scale_embedding": False}
    ),
    "marian, two vocabularies, deep encoder": transformers.MarianConfig(
        **MARIAN | {"encoder_layers": 3},
        share_encoder_decoder_embeddings=False,
        decoder_vocab_size=77,
    ),
    "marian, nothing shared": transformers.MarianConfig(
        **MARIAN,
        share_encoder_decoder_embeddings=False,
        decoder_vocab_size=77,
        tie_word_embeddings=False,
    ),
    "t5 1.0": transformers.T5Config(**T5),
    "t5 1.0, deep encoder": transformers.T5Config(**T5 | {"num_layers": 3}, num_decoder_layers=1),
    "t5 1.1": transformers.T5Config(**V11),
    "t5 1.1, tied": transformers.T5Config(**V11),
    "t5 1.1, silu": transformers.T5Config(**V11 | {"feed_forward_proj": "gated-silu"}),
}
TARGET_VOCAB = 77


def seq2seq_pair(name: str, head: str = "ForSeq2SeqLM", **how: Any) -> Pair:
    """The constants of Marian's logits, and the head of T5 1.1, have random values of their own."""

    def prepare(theirs: Any) -> None:
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.normal_()
        if hasattr(theirs, "lm_head") and name in ("t5 1.1", "t5 1.1, silu"):
            shape, dtype = theirs.lm_head.weight.shape, theirs.lm_head.weight.dtype
            theirs.lm_head.weight = torch.nn.Parameter(torch.randn(shape).to(dtype))
            theirs.all_tied_weights_keys.pop("lm_head.weight")

    return pair_of(CONFIGS[name], head, prepare=prepare, **how)


def random_targets(rows: int, length: int, *, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, TARGET_VOCAB, (rows, length), generator=generator)


def outputs(pair: Pair, source: Padded, target_RT: Tensor) -> tuple[Tensor, Tensor]:
    """Ours and theirs."""
    theirs = pair.theirs(
        input_ids=source.ids_BT,
        attention_mask=source.valid_BT.long(),
        decoder_input_ids=target_RT,
        use_cache=False,
    )
    return pair.ours(source.ids_BT, target_RT, source.valid_BT), theirs[0]
