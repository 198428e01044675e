"""Falcon (Almazrouei et al. 2023, arXiv:2311.16867): a decoder whose blocks compute attention and
feed-forward side by side, from one normalisation (7B, 11B) or from one each (40B, 180B). The
RefinedWeb models (Penedo et al. 2023, arXiv:2306.01116) have sequential blocks and ALiBi instead of
rotary positions.

Query, key and value are one linear. Its outputs stand in groups: the query heads of the group, then
the key and the value that they share. A multi-query model is one group.

Shapes: B sequences, T tokens, D hidden width, H query heads, G groups, R query heads of a group
(H = G·R), K head width (D = H·K).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pharos.models.config import ModelConfig, check_divides, check_size
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.heads import CausalLM, LastTokenClassifier, Reward, TokenClassifier
from pharos.models.kv_cache import Cache, attend, next_positions
from pharos.models.rope_config import read_rope, write_rope
from pharos.models.weight_map import One, Source
from pharos.ops.feed_forward import FeedForward, check_activation
from pharos.ops.masks import Causal, Mask
from pharos.ops.positions import Alibi, DistanceBias, Rope, Rotation


@dataclass(frozen=True, kw_only=True, slots=True)
class FalconConfig(ModelConfig):
    """`new_decoder_architecture` is that of the 40B and later models: heads in groups, blocks that
    are always parallel, with `num_ln_in_parallel_attn` normalisations. `multi_query`,
    `num_kv_heads` and `parallel_attn` are read where the file format reads them."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "intermediate_size": "ffn_hidden_size",
        "hidden_act": "activation",
    }

    model_type: str = "falcon"
    intermediate_size: int
    rope: Rope
    alibi: bool = False
    new_decoder_architecture: bool = False
    multi_query: bool = True
    num_kv_heads: int
    parallel_attn: bool = True
    num_ln_in_parallel_attn: int | None = None
    bias: bool = False
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    layer_norm_epsilon: float = 1e-5
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        super(FalconConfig, self).__post_init__()
        check_activation(self.hidden_act)
        check_divides(hidden_size=self.hidden_size, num_attention_heads=self.num_attention_heads)
        check_divides(num_attention_heads=self.num_attention_heads, num_kv_heads=self.num_groups)
        check_size(intermediate_size=self.intermediate_size)
        check_size(most=2, num_ln_in_parallel_attn=self.num_ln_in_parallel_attn or 1)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_groups(self) -> int:
        """How many keys and values there are."""
        if self.new_decoder_architecture:
            return self.num_kv_heads
        return 1 if self.multi_query else self.num_attention_heads

    @property
    def is_parallel(self) -> bool:
        return self.new_decoder_architecture or self.parallel_attn

    @property
    def has_two_norms(self) -> bool:
        if self.new_decoder_architecture:
            return self.num_ln_in_parallel_attn != 1
        return not self.parallel_attn

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        return ("rope",)

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        special = super(FalconConfig, cls).read_special(raw)
        width, heads = raw.get("hidden_size", 0), raw.get("num_attention_heads") or 1
        inner, groups = raw.get("ffn_hidden_size"), raw.get("num_kv_heads")
        return special | {
            "intermediate_size": 4 * width if inner is None else inner,
            "num_kv_heads": heads if groups is None else groups,
            "rope": read_rope(raw, width // heads),
        }

    def write_special(self) -> dict[str, Any]:
        return write_rope(self.rope, self.head_dim)


class Place(NamedTuple):
    """How a forward pass tells the layers where the tokens stand: one of the two."""

    rotate: Rotation | None
    bias: DistanceBias | None


class FalconAttention(nn.Module):
    def __init__(self, config: FalconConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, config.attention_dropout
        self.num_groups, self.head_dim = config.num_groups, config.head_dim
        width = config.hidden_size
        qkv_width = width + 2 * config.num_groups * config.head_dim
        self.qkv = nn.Linear(width, qkv_width, bias=config.bias)
        self.out = nn.Linear(width, width, bias=config.bias)

    def forward(self, x_BTD: Tensor, place: Place, mask: Mask, cache: Cache | None) -> Tensor:
        qkv_BTGRK = self.qkv(x_BTD).unflatten(-1, (self.num_groups, -1, self.head_dim))
        q_BHTK = qkv_BTGRK[..., :-2, :].flatten(2, 3).transpose(1, 2)
        k_BGTK, v_BGTK = qkv_BTGRK[..., -2:, :].transpose(1, 3).unbind(1)
        if place.rotate is not None:
            q_BHTK, k_BGTK = place.rotate(q_BHTK), place.rotate(k_BGTK)
        y_BHTK = attend(
            cache,
            self.layer,
            q_BHTK,
            k_BGTK,
            v_BGTK,
            mask=mask,
            bias=place.bias,
            dropout=self.dropout if self.training else 0.0,
        )
        y_BTD: Tensor = self.out(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD


class FalconBlock(nn.Module):
    """Attention, then feed-forward; or, where `config.is_parallel`, both of the same input."""

    def __init__(self, config: FalconConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_epsilon
        self.is_parallel = config.is_parallel
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = FalconAttention(config, layer)
        self.mlp_norm = nn.LayerNorm(width, eps=eps) if config.has_two_norms else None
        self.mlp = FeedForward(
            width, config.intermediate_size, activation=config.hidden_act, bias=config.bias
        )
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTD: Tensor, place: Place, mask: Mask, cache: Cache | None) -> Tensor:
        normed_BTD = self.attention_norm(x_BTD)
        attended_BTD = self.attention(normed_BTD, place, mask, cache)
        if not self.is_parallel:
            x_BTD, attended_BTD = x_BTD + self.dropout(attended_BTD), 0.0
        if self.mlp_norm is not None:
            normed_BTD = self.mlp_norm(x_BTD)
        y_BTD: Tensor = x_BTD + self.dropout(self.mlp(normed_BTD) + attended_BTD)
        return y_BTD


class Falcon(Body):
    """From token ids to the last hidden states."""

    def __init__(self, config: FalconConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(FalconBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """`[B, T, D]`. Positions continue those of the cache unless given; the mask is causal."""
        x_BTD: Tensor = self.embedding(ids_BT)
        positions_BT = next_positions(ids_BT, cache) if positions_BT is None else positions_BT
        past = 0 if cache is None else cache.length
        place = self.place(positions_BT, past + ids_BT.shape[1], x_BTD.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, place, mask or Causal(), cache)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        y_BTD: Tensor = self.norm(x_BTD)
        return y_BTD

    def place(self, positions_BT: Tensor, length: int, dtype: torch.dtype) -> Place:
        """ALiBi counts the distance of two tokens where they stand among the `length` of the
        sequence, which padding before it and other documents beside it do not change."""
        config = self.config
        if not config.alibi:
            return Place(config.rope.rotation(positions_BT, dtype=dtype), None)
        values_HR, zero = Alibi(config.num_attention_heads).bias(length, positions_BT.device)
        return Place(None, DistanceBias(values_HR * config.head_dim**-0.5, zero))

    def attention_shapes(self) -> list[AttentionShape]:
        config = self.config
        heads, groups, width = config.num_attention_heads, config.num_groups, config.head_dim
        shape = AttentionShape(heads, groups, width, is_cached=True)
        return [shape] * config.num_hidden_layers

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names: dict[str, Source] = {"embedding.weight": One(f"{prefix}word_embeddings.weight")}
        for kind in ("weight", "bias"):
            names[f"norm.{kind}"] = One(f"{prefix}ln_f.{kind}")
        norms = PARALLEL_NORMS if self.config.is_parallel else SEQUENTIAL_NORMS
        norms = norms if self.config.has_two_norms else ONE_NORM
        for i, block in enumerate(self.blocks):
            for ours, _ in block.named_parameters():
                part, _, kind = ours.rpartition(".")
                theirs = (LAYER | norms)[part]
                names[f"blocks.{i}.{ours}"] = One(f"{prefix}h.{i}.{theirs}.{kind}")
        return names


LAYER = {
    "attention.qkv": "self_attention.query_key_value",
    "attention.out": "self_attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
ONE_NORM = {"attention_norm": "input_layernorm"}
SEQUENTIAL_NORMS = ONE_NORM | {"mlp_norm": "post_attention_layernorm"}
PARALLEL_NORMS = {"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"}

FAMILY = Family(
    model_types={"falcon": "Falcon"},
    config=FalconConfig,
    body=Falcon,
    prefix="transformer.",
    tasks={
        "causal_lm": CausalLM,
        "sequence_classification": LastTokenClassifier,
        "token_classification": TokenClassifier,
        "reward": Reward,
    },
)
