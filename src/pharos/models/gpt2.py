"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): a decoder of
pre-norm blocks with LayerNorm, a learned vector for each position, and GELU.

Query, key and value are one linear. The checkpoint keeps its linears as `[in, out]`.

Shapes: B sequences, T tokens, D hidden width, H heads, K head width (D = H·K).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pharos.models.config import ModelConfig, check_divides, check_size
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.heads import CausalLM, LastTokenClassifier, Reward, TokenClassifier
from pharos.models.kv_cache import Cache, attend, next_positions
from pharos.models.weight_map import One, Source, Transposed, under
from pharos.ops.feed_forward import FeedForward, check_activation
from pharos.ops.masks import Causal, Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class GPT2Config(ModelConfig):
    """`scale_attn_weights` divides the scores by √K, `scale_attn_by_inverse_layer_idx` those of
    layer i (from 0) by i + 1 besides."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "embedding_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {"add_cross_attention": False}

    model_type: str = "gpt2"
    intermediate_size: int
    max_position_embeddings: int = 1024
    layer_norm_epsilon: float = 1e-5
    hidden_act: str = "gelu_new"
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    def __post_init__(self) -> None:
        super(GPT2Config, self).__post_init__()
        check_activation(self.hidden_act)
        check_divides(hidden_size=self.hidden_size, num_attention_heads=self.num_attention_heads)
        check_size(max_position_embeddings=self.max_position_embeddings)
        check_size(intermediate_size=self.intermediate_size)

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        special = super(GPT2Config, cls).read_special(raw)
        inner = raw.get("n_inner")
        return special | {"intermediate_size": 4 * raw.get("n_embd", 0) if inner is None else inner}

    def write_special(self) -> dict[str, Any]:
        usual = self.intermediate_size == 4 * self.hidden_size
        return {"n_inner": None if usual else self.intermediate_size}

    def scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied by."""
        scale = (self.hidden_size // self.num_attention_heads) ** -0.5
        scale = scale if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


class GPT2Attention(nn.Module):
    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, config.num_attention_heads
        self.scale, self.dropout = config.scale(layer), config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BTD: Tensor, mask: Mask, cache: Cache | None) -> Tensor:
        qkv_BT3HK = self.qkv(x_BTD).unflatten(-1, (3, self.num_heads, -1))
        q_BHTK, k_BHTK, v_BHTK = qkv_BT3HK.transpose(1, 3).unbind(2)
        y_BHTK = attend(
            cache,
            self.layer,
            q_BHTK,
            k_BHTK,
            v_BHTK,
            mask=mask,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
        )
        y_BTD: Tensor = self.out(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_epsilon
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = GPT2Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = FeedForward(width, config.intermediate_size, activation=config.hidden_act)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x_BTD: Tensor, mask: Mask, cache: Cache | None) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), mask, cache))
        y_BTD: Tensor = x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))
        return y_BTD


class GPT2(Body):
    """From token ids to the last hidden states."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.max_positions = config.max_position_embeddings
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(GPT2Block(config, i) for i in range(config.num_hidden_layers))
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
        positions_BT = next_positions(ids_BT, cache) if positions_BT is None else positions_BT
        x_BTD: Tensor = self.dropout(self.embedding(ids_BT) + self.position(positions_BT))
        for block in self.blocks:
            x_BTD = block(x_BTD, mask or Causal(), cache)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        y_BTD: Tensor = self.norm(x_BTD)
        return y_BTD

    def initial_std(self, name: str) -> float:
        """What is added to the residual stream begins smaller, the more layers add to it."""
        std = super().initial_std(name)
        is_added = name.endswith(("attention.out.weight", "mlp.down.weight"))
        return std / math.sqrt(2 * self.config.num_hidden_layers) if is_added else std

    def attention_shapes(self) -> list[AttentionShape]:
        return [shape._replace(is_cached=True) for shape in super().attention_shapes()]

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = under(
            prefix,
            {
                "embedding.weight": "wte.weight",
                "position.weight": "wpe.weight",
                "norm.weight": "ln_f.weight",
                "norm.bias": "ln_f.bias",
            },
        )
        for i in range(len(self.blocks)):
            for ours, theirs in LAYER.items():
                is_linear = "norm" not in ours
                weight, bias = (f"{prefix}h.{i}.{theirs}.{kind}" for kind in ("weight", "bias"))
                names[f"blocks.{i}.{ours}.weight"] = (Transposed if is_linear else One)(weight)
                names[f"blocks.{i}.{ours}.bias"] = One(bias)
        return names


LAYER = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}

FAMILY = Family(
    model_types={"gpt2": "GPT2"},
    config=GPT2Config,
    body=GPT2,
    prefix="transformer.",
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
    endings={"causal_lm": "LMHeadModel"},
    tasks={
        "causal_lm": CausalLM,
        "sequence_classification": LastTokenClassifier,
        "token_classification": TokenClassifier,
        "reward": Reward,
    },
)
