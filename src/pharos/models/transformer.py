"""The original Transformer (Vaswani et al. 2017, arXiv:1706.03762): an encoder and a decoder of
post-norm blocks, sinusoidal positions, ReLU, and one embedding for source, target and output,
scaled by √D where it enters.

Marian, the translation models of OPUS-MT, is the same network with four settings of its own, all
of which its `config.json` names or implies:

- positions have their sines in the first half of the columns and their cosines in the second (the
  paper's alternate): the same numbers in another order;
- the activation may be another than ReLU (SiLU, under the name `swish`, in OPUS-MT);
- a constant `final_logits_bias` is added to the logits;
- source and target may have an embedding each (`share_encoder_decoder_embeddings: false`), and
  whether they are scaled is `scale_embedding`.

`model_type` is `marian` for the one, and `transformer` for the paper's, which Hugging Face's
libraries do not have.

Shapes: B sources, S source tokens, R rows of targets (a multiple of B), T target tokens, D hidden
width, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pharos.core.errors import ModelError
from pharos.models.config import (
    MOST_LAYERS,
    ModelConfig,
    TokenIds,
    check_divides,
    check_size,
)
from pharos.models.family import AttentionShape, Family
from pharos.models.kv_cache import attend, next_positions
from pharos.models.seq2seq import (
    EncoderDecoder,
    KeysAndValues,
    Seq2SeqCache,
    Seq2SeqLM,
    attend_to_source,
    merge_heads,
    source_mask,
    split_heads,
)
from pharos.models.weight_map import One, Source, under
from pharos.ops.feed_forward import FeedForward, check_activation
from pharos.ops.masks import Causal, Mask
from pharos.ops.positions import sinusoids


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig(ModelConfig):
    """The defaults are the paper's; Marian's files name every setting."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
        "num_decoder_layers": "decoder_layers",
        "num_decoder_heads": "decoder_attention_heads",
        "decoder_intermediate_size": "decoder_ffn_dim",
        "hidden_act": "activation_function",
        "initializer_range": "init_std",
        "share_embeddings": "share_encoder_decoder_embeddings",
        "target_vocab_size": "decoder_vocab_size",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {
        "is_encoder_decoder": True,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
    }

    intermediate_size: int
    num_decoder_layers: int
    num_decoder_heads: int
    decoder_intermediate_size: int
    target_vocab_size: int
    hidden_act: str = "relu"
    share_embeddings: bool = True
    scale_embedding: bool = True
    max_position_embeddings: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    decoder_start_token_id: int | None = None
    forced_eos_token_id: TokenIds = None

    def __post_init__(self) -> None:
        super(TransformerConfig, self).__post_init__()
        check_activation(self.hidden_act)
        check_size(decoder_layers=self.num_decoder_layers, most=MOST_LAYERS)
        check_size(encoder_ffn_dim=self.intermediate_size)
        check_size(decoder_ffn_dim=self.decoder_intermediate_size)
        check_size(decoder_vocab_size=self.target_vocab_size)
        check_divides(d_model=self.hidden_size, encoder_attention_heads=self.num_attention_heads)
        check_divides(d_model=self.hidden_size, decoder_attention_heads=self.num_decoder_heads)
        if self.share_embeddings and self.vocab_size != self.target_vocab_size:
            raise ModelError(
                f"config.json: vocab_size {self.vocab_size} and decoder_vocab_size "
                f"{self.target_vocab_size} differ, but the embedding is shared"
            )
        if self.share_embeddings and not self.tie_word_embeddings:
            raise ModelError(
                "config.json: tie_word_embeddings is False, but the embedding is shared by source "
                "and target; a head of its own is built only where nothing is shared"
            )
        if self.pad_token_id is not None:
            most = min(self.vocab_size, self.target_vocab_size) - 1
            check_size(pad_token_id=self.pad_token_id, least=0, most=most)

    @property
    def alternating_positions(self) -> bool:
        """Whether sines and cosines alternate."""
        return self.model_type == "transformer"

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        special = super(TransformerConfig, cls).read_special(raw)
        if isinstance(raw.get("forced_eos_token_id"), list):
            special["forced_eos_token_id"] = tuple(raw["forced_eos_token_id"])
        special["target_vocab_size"] = raw.get("decoder_vocab_size") or raw.get("vocab_size")
        return special


class Attention(nn.Module):
    """Several heads: what each of the two attentions of a block has."""

    def __init__(self, config: TransformerConfig, num_heads: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.dropout = num_heads, config.attention_dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def queries(self, x_BTD: Tensor) -> Tensor:
        return split_heads(self.query(x_BTD), self.num_heads)

    def keys_and_values(self, x_BSD: Tensor) -> KeysAndValues:
        keys, values = self.key(x_BSD), self.value(x_BSD)
        return split_heads(keys, self.num_heads), split_heads(values, self.num_heads)

    @property
    def dropout_now(self) -> float:
        return self.dropout if self.training else 0.0


class SelfAttention(Attention):
    def __init__(self, config: TransformerConfig, num_heads: int, layer: int) -> None:
        super().__init__(config, num_heads)
        self.layer = layer

    def forward(self, x_BTD: Tensor, mask: Mask, cache: Seq2SeqCache | None = None) -> Tensor:
        q_BHTK, (k_BHTK, v_BHTK) = self.queries(x_BTD), self.keys_and_values(x_BTD)
        y_BHTK = attend(
            cache, self.layer, q_BHTK, k_BHTK, v_BHTK, mask=mask, dropout=self.dropout_now
        )
        y_BTD: Tensor = self.out(merge_heads(y_BHTK))
        return y_BTD


class SourceAttention(Attention):
    """The decoder's look at the source (the paper's "encoder-decoder attention")."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config, config.num_decoder_heads)
        self.layer = layer

    def forward(
        self,
        x_RTD: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None,
        cache: Seq2SeqCache | None,
    ) -> Tensor:
        def project() -> KeysAndValues:
            return self.keys_and_values(states_BSD)

        k_BHSK, v_BHSK = project() if cache is None else cache.of_source(self.layer, project)
        q_RHTK, dropout = self.queries(x_RTD), self.dropout_now
        y_RHTK = attend_to_source(q_RHTK, k_BHSK, v_BHSK, valid_BS, dropout=dropout)
        y_RTD: Tensor = self.out(merge_heads(y_RHTK))
        return y_RTD


class EncoderBlock(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.attention = SelfAttention(config, config.num_attention_heads, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = _feed_forward(config, config.intermediate_size)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, mask: Mask) -> Tensor:
        x_BSD = self.attention_norm(x_BSD + self.dropout(self.attention(x_BSD, mask)))
        y_BSD: Tensor = self.mlp_norm(x_BSD + self.dropout(self.mlp(x_BSD)))
        return y_BSD


class DecoderBlock(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.attention = SelfAttention(config, config.num_decoder_heads, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.source_attention = SourceAttention(config, layer)
        self.source_attention_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = _feed_forward(config, config.decoder_intermediate_size)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_RTD: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None,
        cache: Seq2SeqCache | None,
    ) -> Tensor:
        x_RTD = self.attention_norm(x_RTD + self.dropout(self.attention(x_RTD, Causal(), cache)))
        of_source_RTD = self.source_attention(x_RTD, states_BSD, valid_BS, cache)
        x_RTD = self.source_attention_norm(x_RTD + self.dropout(of_source_RTD))
        y_RTD: Tensor = self.mlp_norm(x_RTD + self.dropout(self.mlp(x_RTD)))
        return y_RTD


def _feed_forward(config: TransformerConfig, inner: int) -> FeedForward:
    act, dropout = config.hidden_act, config.activation_dropout
    return FeedForward(config.hidden_size, inner, activation=act, dropout=dropout)


class Transformer(EncoderDecoder):
    """From a source's token ids, and a target's, to the target's hidden states. `embedding` is the
    source's, and the target's too unless that has its own."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, pad = config.hidden_size, config.pad_token_id
        self.embedding = nn.Embedding(config.vocab_size, width, padding_idx=pad)
        self.target_embedding = self.embedding
        if not config.share_embeddings:
            self.target_embedding = nn.Embedding(config.target_vocab_size, width, padding_idx=pad)
        layers, decoder_layers = range(config.num_hidden_layers), range(config.num_decoder_layers)
        self.encoder = nn.ModuleList(EncoderBlock(config, i) for i in layers)
        self.decoder = nn.ModuleList(DecoderBlock(config, i) for i in decoder_layers)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, ids_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """`[B, S, D]`. Positions count what `valid_BS` marks; all of it by default."""
        valid = torch.ones_like(ids_BS) if valid_BS is None else valid_BS
        positions_BS = (valid.cumsum(1) - 1).clamp(min=0)
        x_BSD: Tensor = self._embed(self.embedding, ids_BS, positions_BS)
        mask = source_mask(valid_BS)
        for block in self.encoder:
            x_BSD = block(x_BSD, mask)
        return x_BSD

    def decode(
        self,
        ids_RT: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None = None,
        cache: Seq2SeqCache | None = None,
    ) -> Tensor:
        positions_1T = next_positions(ids_RT, cache)
        x_RTD: Tensor = self._embed(self.target_embedding, ids_RT, positions_1T)
        for block in self.decoder:
            x_RTD = block(x_RTD, states_BSD, valid_BS, cache)
        if cache is not None:
            cache.advance(ids_RT.shape[1])
        return x_RTD

    def _embed(self, embedding: nn.Embedding, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        width = self.config.hidden_size
        table_BTD = sinusoids(positions_BT, width)
        if not self.config.alternating_positions:
            table_BTD = torch.cat((table_BTD[..., 0::2], table_BTD[..., 1::2]), dim=-1)
        x_BTD = embedding(ids_BT) * (math.sqrt(width) if self.config.scale_embedding else 1.0)
        y_BTD: Tensor = self.dropout(x_BTD + table_BTD.to(x_BTD.dtype))
        return y_BTD

    def attention_shapes(self) -> list[AttentionShape]:
        heads, width = self.config.num_decoder_heads, self.config.hidden_size
        shape = AttentionShape(heads, heads, width // heads)
        of_decoder = [shape._replace(is_cached=True), shape] * int(self.config.num_decoder_layers)
        return super().attention_shapes() + of_decoder

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = {"embedding.weight": "shared.weight"}
        if not self.config.share_embeddings:
            names = {
                "embedding.weight": "encoder.embed_tokens.weight",
                "target_embedding.weight": "decoder.embed_tokens.weight",
            }
        for tower in ("encoder", "decoder"):
            for ours, _ in self.get_submodule(tower).named_parameters():
                layer, _, rest = ours.partition(".")
                part, _, kind = rest.rpartition(".")
                names[f"{tower}.{ours}"] = f"{tower}.layers.{layer}.{LAYER[part]}.{kind}"
        return under(prefix, names)

    def copies(self, prefix: str) -> dict[str, str]:
        towers = ("encoder", "decoder") if self.config.share_embeddings else ()
        return {
            f"{prefix}{tower}.embed_tokens.weight": f"{prefix}shared.weight" for tower in towers
        }


class TransformerLM(Seq2SeqLM):
    """The logits are the target's embedding again, unless the head has weights of its own."""

    body: Transformer

    def __init__(self, body: Transformer) -> None:
        super().__init__(body)
        config = body.config
        size = (config.hidden_size, config.target_vocab_size)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(*size, bias=False)
        self.final_logits_bias = nn.Buffer(torch.zeros(1, config.target_vocab_size))

    def logits(self, x_RTD: Tensor) -> Tensor:
        head = self.body.target_embedding if self.lm_head is None else self.lm_head
        weight_VD = head.get_parameter("weight")
        return linear(x_RTD, weight_VD) + self.final_logits_bias

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = super().weight_map(prefix)
        if self.lm_head is not None:
            names["lm_head.weight"] = One("lm_head.weight")
        return names | {"final_logits_bias": One("final_logits_bias")}

    def copies(self, prefix: str) -> dict[str, str]:
        names: dict[str, str] = self.body.copies(prefix)
        if self.lm_head is None:
            shared = self.config.share_embeddings
            tied = "shared.weight" if shared else "decoder.embed_tokens.weight"
            names["lm_head.weight"] = f"{prefix}{tied}"
        return names


LAYER = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "source_attention.query": "encoder_attn.q_proj",
    "source_attention.key": "encoder_attn.k_proj",
    "source_attention.value": "encoder_attn.v_proj",
    "source_attention.out": "encoder_attn.out_proj",
    "source_attention_norm": "encoder_attn_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
    "mlp_norm": "final_layer_norm",
}

FAMILY = Family(
    model_types={"transformer": "Transformer", "marian": "Marian"},
    config=TransformerConfig,
    body=Transformer,
    prefix="model.",
    tasks={"seq2seq_lm": TransformerLM},
    endings={"seq2seq_lm": "MTModel"},
    ignored=(r".*embed_positions\.weight",),
)
