"""T5 (Raffel et al. 2019, arXiv:1910.10683), an encoder-decoder for every task put as text:
pre-norm blocks with RMSNorm, no biases, and no positions but a learned bias on the attention scores
for each bucket of distances, which the first layer has for all layers of its tower. The scores are
not scaled by 1 / √K: the initialisation does that.

Version 1.0 has ReLU and one matrix for source, target and output, scaled by 1 / √D before it gives
logits. Version 1.1 (also Flan-T5) has a GELU-gated feed-forward and a head of its own, not scaled.

In float16 Hugging Face's T5 clamps the activations that overflow. Here they are left alone: take
bfloat16.

Shapes: B sources, S source tokens, R rows of targets (a multiple of B), T target tokens, D hidden
width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.config import MOST_LAYERS, ModelConfig, check_size
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.kv_cache import attend
from pharos.models.readout import Readout, plain_weight, project
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
from pharos.models.weight_map import One, Source, below, under
from pharos.ops.feed_forward import FeedForward, GatedFeedForward, check_activation
from pharos.ops.masks import Causal, Mask
from pharos.ops.norms import RMSNorm
from pharos.ops.positions import DistanceBias, RelativeBuckets


@dataclass(frozen=True, kw_only=True, slots=True)
class T5Config(ModelConfig):
    """`feed_forward_proj` is the name of an activation, after `gated-` in version 1.1.
    `initializer_range` is a factor on the deviations that T5 gives each kind of weight."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "head_dim": "d_kv",
        "dropout": "dropout_rate",
        "initializer_range": "initializer_factor",
    }

    intermediate_size: int
    head_dim: int
    num_decoder_layers: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    feed_forward_proj: str = "relu"
    scale_decoder_outputs: bool = True
    is_encoder_decoder: bool = True
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.1
    initializer_range: float = 1.0
    pad_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        super(T5Config, self).__post_init__()
        check_size(num_decoder_layers=self.num_decoder_layers, most=MOST_LAYERS)
        check_size(d_ff=self.intermediate_size)
        check_size(d_kv=self.head_dim)
        check_size(relative_attention_num_buckets=self.relative_attention_num_buckets, least=4)
        check_activation(self.activation)
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ModelError(
                f"config.json: relative_attention_max_distance is "
                f"{self.relative_attention_max_distance}; half of the "
                f"{self.relative_attention_num_buckets} buckets hold one distance each"
            )

    @property
    def is_gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """`gated-gelu` has always meant the tanh approximation."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Files from before `scale_decoder_outputs` say by `tie_word_embeddings` whether to."""
        special = super(T5Config, cls).read_special(raw)
        tied = raw.get("tie_word_embeddings") is not False
        if raw.get("num_decoder_layers") is None:
            special["num_decoder_layers"] = raw.get("num_layers")
        return special | {"scale_decoder_outputs": raw.get("scale_decoder_outputs", tied)}


class Attention(nn.Module):
    """What the self-attention of both towers and the look at the source have."""

    def __init__(self, config: T5Config, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads, self.dropout = layer, config.num_attention_heads, config.dropout
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def queries(self, x_BTD: Tensor) -> Tensor:
        return split_heads(self.query(x_BTD), self.num_heads)

    def keys_and_values(self, x_BSD: Tensor) -> KeysAndValues:
        keys, values = self.key(x_BSD), self.value(x_BSD)
        return split_heads(keys, self.num_heads), split_heads(values, self.num_heads)

    @property
    def dropout_now(self) -> float:
        return self.dropout if self.training else 0.0


class SelfAttention(Attention):
    def forward(
        self, x_BTD: Tensor, mask: Mask, bias: DistanceBias, cache: Seq2SeqCache | None = None
    ) -> Tensor:
        q_BHTK, (k_BHTK, v_BHTK) = self.queries(x_BTD), self.keys_and_values(x_BTD)
        y_BHTK = attend(
            cache,
            self.layer,
            q_BHTK,
            k_BHTK,
            v_BHTK,
            mask=mask,
            bias=bias,
            scale=1.0,
            dropout=self.dropout_now,
        )
        y_BTD: Tensor = self.out(merge_heads(y_BHTK))
        return y_BTD


class SourceAttention(Attention):
    """The decoder's look at the source, which has no positions at all."""

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
        y_RHTK = attend_to_source(q_RHTK, k_BHSK, v_BHSK, valid_BS, scale=1.0, dropout=dropout)
        y_RTD: Tensor = self.out(merge_heads(y_RHTK))
        return y_RTD


class EncoderBlock(nn.Module):
    def __init__(self, config: T5Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = SelfAttention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, mask: Mask, bias: DistanceBias) -> Tensor:
        x_BSD = x_BSD + self.dropout(self.attention(self.attention_norm(x_BSD), mask, bias))
        y_BSD: Tensor = x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))
        return y_BSD


class DecoderBlock(nn.Module):
    def __init__(self, config: T5Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = SelfAttention(config, layer)
        self.source_attention_norm = _norm(config)
        self.source_attention = SourceAttention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_RTD: Tensor,
        bias: DistanceBias,
        states_BSD: Tensor,
        valid_BS: Tensor | None,
        cache: Seq2SeqCache | None,
    ) -> Tensor:
        normed_RTD = self.attention_norm(x_RTD)
        x_RTD = x_RTD + self.dropout(self.attention(normed_RTD, Causal(), bias, cache))
        normed_RTD = self.source_attention_norm(x_RTD)
        of_source_RTD = self.source_attention(normed_RTD, states_BSD, valid_BS, cache)
        x_RTD = x_RTD + self.dropout(of_source_RTD)
        y_RTD: Tensor = x_RTD + self.dropout(self.mlp(self.mlp_norm(x_RTD)))
        return y_RTD


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def _feed_forward(config: T5Config) -> FeedForward | GatedFeedForward:
    kind = GatedFeedForward if config.is_gated else FeedForward
    return kind(
        config.hidden_size,
        config.intermediate_size,
        activation=config.activation,
        bias=False,
        dropout=config.dropout,
    )


def _buckets(config: T5Config, *, causal: bool) -> RelativeBuckets:
    return RelativeBuckets(
        num_heads=config.num_attention_heads,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        causal=causal,
    )


class Encoder(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.buckets = _buckets(config, causal=False)
        self.blocks = nn.ModuleList(
            EncoderBlock(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, valid_BS: Tensor | None) -> Tensor:
        mask, bias = source_mask(valid_BS), self.buckets.bias(x_BSD.shape[1])
        x_BSD = self.dropout(x_BSD)
        for block in self.blocks:
            x_BSD = block(x_BSD, mask, bias)
        y_BSD: Tensor = self.dropout(self.norm(x_BSD))
        return y_BSD


class Decoder(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.buckets = _buckets(config, causal=True)
        layers = range(config.num_decoder_layers)
        self.blocks = nn.ModuleList(DecoderBlock(config, i) for i in layers)
        self.norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_RTD: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None,
        cache: Seq2SeqCache | None,
    ) -> Tensor:
        length = x_RTD.shape[1]
        bias = self.buckets.bias(length if cache is None else cache.length + length)
        x_RTD = self.dropout(x_RTD)
        for block in self.blocks:
            x_RTD = block(x_RTD, bias, states_BSD, valid_BS, cache)
        if cache is not None:
            cache.advance(length)
        y_RTD: Tensor = self.dropout(self.norm(x_RTD))
        return y_RTD


class T5(EncoderDecoder):
    """From a source's token ids, and a target's, to the target's hidden states."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, ids_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        x_BSD: Tensor = self.encoder(self.embedding(ids_BS), valid_BS)
        return x_BSD

    def decode(
        self,
        ids_RT: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None = None,
        cache: Seq2SeqCache | None = None,
    ) -> Tensor:
        x_RTD: Tensor = self.decoder(self.embedding(ids_RT), states_BSD, valid_BS, cache)
        return x_RTD

    def attention_shapes(self) -> list[AttentionShape]:
        config = self.config
        shape = AttentionShape(
            config.num_attention_heads, config.num_attention_heads, config.head_dim
        )
        of_decoder = [shape._replace(is_cached=True), shape] * int(config.num_decoder_layers)
        return [shape] * int(config.num_hidden_layers) + of_decoder

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names: dict[str, Source] = {"embedding.weight": One(f"{prefix}shared.weight")}
        names |= below("encoder", tower_map(self.encoder, f"{prefix}encoder."))
        return names | below("decoder", tower_map(self.decoder, f"{prefix}decoder."))

    def copies(self, prefix: str) -> dict[str, str]:
        shared = f"{prefix}shared.weight"
        return {f"{prefix}{tower}.embed_tokens.weight": shared for tower in ("encoder", "decoder")}

    def initial_std(self, name: str) -> float:
        return initial_std(self.config, name)


class T5LM(Seq2SeqLM):
    """The logits are the embedding again, or a head of its own."""

    def __init__(self, body: T5) -> None:
        super().__init__(body)
        config = body.config
        size = (config.hidden_size, config.vocab_size)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(*size, bias=False)

    def logits(self, x_RTD: Tensor) -> Tensor:
        x_RTD = self.scaled(x_RTD)
        if self.lm_head is None:
            return project(self.body.embedding, x_RTD)
        y_RTV: Tensor = self.lm_head(x_RTD)
        return y_RTV

    def scaled(self, x_D: Tensor) -> Tensor:
        return x_D * self.config.hidden_size**-0.5 if self.config.scale_decoder_outputs else x_D

    def readout(self, x_D: Tensor) -> Readout | None:
        """What `logits` multiplies, if that is all it does."""
        weight_VD = plain_weight(self.body.embedding if self.lm_head is None else self.lm_head)
        return None if weight_VD is None else Readout(self.scaled(x_D), weight_VD)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = super().weight_map(prefix)
        return names if self.lm_head is None else names | {"lm_head.weight": One("lm_head.weight")}

    def copies(self, prefix: str) -> dict[str, str]:
        names: dict[str, str] = self.body.copies(prefix)
        tied = {} if self.lm_head is not None else {"lm_head.weight": f"{prefix}shared.weight"}
        return names | tied

    def initial_std(self, name: str) -> float:
        return initial_std(self.config, name)


class T5Encoder(Body):
    """The encoder alone: from a text's token ids to its hidden states."""

    def __init__(self, body: T5) -> None:
        super().__init__()
        self.config = body.config
        self.embedding, self.encoder = body.embedding, body.encoder

    def forward(self, ids_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """`[B, S, D]`. `valid_BS` marks what is not padding."""
        x_BSD: Tensor = self.encoder(self.embedding(ids_BS), valid_BS)
        return x_BSD

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = below("encoder", tower_map(self.encoder, f"{prefix}encoder."))
        return under(prefix, {"embedding.weight": "shared.weight"}) | names

    def copies(self, prefix: str) -> dict[str, str]:
        return {f"{prefix}encoder.embed_tokens.weight": f"{prefix}shared.weight"}

    def initial_std(self, name: str) -> float:
        return initial_std(self.config, name)

    def attention_shapes(self) -> list[AttentionShape]:
        heads = self.config.num_attention_heads
        shape = AttentionShape(heads, heads, self.config.head_dim)
        return [shape] * self.config.num_hidden_layers


def initial_std(config: T5Config, name: str) -> float:
    """T5's own: the queries' makes up for the scores that nothing scales."""
    width, head_dim = config.hidden_size, config.head_dim
    fan_in = {
        "query": width * head_dim,
        "out": config.num_attention_heads * head_dim,
        "down": config.intermediate_size,
        "embedding": 1,
        "lm_head": 1,
    }
    part = name.removesuffix(".weight").rpartition(".")[2]
    return float(config.initializer_range * fan_in.get(part, width) ** -0.5)


ENCODER_LAYER = {
    "attention": "layer.0.SelfAttention",
    "attention_norm": "layer.0.layer_norm",
    "mlp": "layer.1.DenseReluDense",
    "mlp_norm": "layer.1.layer_norm",
}
DECODER_LAYER = {
    "attention": "layer.0.SelfAttention",
    "attention_norm": "layer.0.layer_norm",
    "source_attention": "layer.1.EncDecAttention",
    "source_attention_norm": "layer.1.layer_norm",
    "mlp": "layer.2.DenseReluDense",
    "mlp_norm": "layer.2.layer_norm",
}
ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
PLAIN_MLP = {"up": "wi", "down": "wo"}
GATED_MLP = {"gate": "wi_0", "up": "wi_1", "down": "wo"}


def tower_map(tower: Encoder | Decoder, prefix: str) -> dict[str, Source]:
    """The parameters of a tower, whose names in the checkpoint begin with `prefix`."""
    buckets = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names = {"buckets.weight": buckets, "norm.weight": "final_layer_norm.weight"}
    layer_names = ENCODER_LAYER if isinstance(tower, Encoder) else DECODER_LAYER
    for i, block in enumerate(tower.blocks):
        is_gated = isinstance(block.mlp, GatedFeedForward)
        leaves = ATTENTION | (GATED_MLP if is_gated else PLAIN_MLP)
        for ours, _ in block.named_parameters():
            part, *leaf = ours.removesuffix(".weight").split(".")
            theirs = [layer_names[part], *(leaves[name] for name in leaf), "weight"]
            names[f"blocks.{i}.{ours}"] = f"block.{i}.{'.'.join(theirs)}"
    return under(prefix, names)


def tell_tied(raw: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Newer Hugging Face libraries write `tie_word_embeddings: true` whatever the checkpoint: what
    it holds tells. A head that equals the embedding is none of its own."""
    head, embedding = weights.get("lm_head.weight"), weights.get("shared.weight")
    apart = head is not None and embedding is not None and not torch.equal(head, embedding)
    scaled = raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings") is not False)
    return {**raw, "tie_word_embeddings": not apart, "scale_decoder_outputs": scaled}


FAMILY = Family(
    model_types={"t5": "T5"},
    config=T5Config,
    body=T5,
    prefix="",
    tasks={"seq2seq_lm": T5LM, "encoder": T5Encoder},
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    left_out={"body": r"lm_head\.", "encoder": r"decoder\.|lm_head\."},
    complete=tell_tied,
)
"""The first checkpoints have a bias for the look at the source, which is never used."""
