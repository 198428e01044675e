"""Llama 2 and 3 (Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783):
a decoder of pre-norm blocks with RMSNorm, rotary positions, grouped-query attention and SwiGLU.

Three relatives are the same network with one thing changed each: Mistral (arXiv:2310.06825) looks
back through a sliding window only, Qwen 2 (arXiv:2407.10671) has biases on query, key and value,
and Qwen 3 (arXiv:2505.09388) normalises each head's queries and keys.

Shapes: B sequences, T tokens, D hidden width, H query heads, G key-value heads, K head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.config import MOST_LAYERS, ModelConfig, check_divides, check_size
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.heads import CausalLM, LastTokenClassifier, Reward, TokenClassifier
from pharos.models.kv_cache import Cache, attend, next_positions
from pharos.models.rope_config import read_rope, write_rope
from pharos.models.weight_map import One, Source, under
from pharos.ops.feed_forward import GatedFeedForward, check_activation
from pharos.ops.masks import Causal, Full, Mask, Window
from pharos.ops.norms import RMSNorm
from pharos.ops.positions import Rope, Rotation


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig(ModelConfig):
    """`windows` has an entry for each layer: how many tokens it looks back, itself included, or
    None for all."""

    intermediate_size: int
    num_key_value_heads: int
    head_dim: int
    rope: Rope
    windows: tuple[int | None, ...]
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    attention_dropout: float = 0.0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        super(LlamaConfig, self).__post_init__()
        check_activation(self.hidden_act)
        check_divides(
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
        )
        check_size(intermediate_size=self.intermediate_size, head_dim=self.head_dim)
        for window in self.windows:
            check_size(sliding_window=1 if window is None else window)
        if len(self.windows) != self.num_hidden_layers:
            raise ModelError(
                f"config.json: layer_types tells of {len(self.windows)} layers, "
                f"num_hidden_layers is {self.num_hidden_layers}"
            )

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        return ("rope", "windows", "qkv_bias", "out_bias", "qk_norm")

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        special = super(LlamaConfig, cls).read_special(raw)
        model_type, heads = raw["model_type"], raw.get("num_attention_heads") or 1
        head_dim = raw.get("head_dim") or raw.get("hidden_size", 0) // heads
        has_bias = raw.get("attention_bias") or False
        return special | {
            "num_key_value_heads": heads
            if (shared := raw.get("num_key_value_heads")) is None
            else shared,
            "head_dim": head_dim,
            "rope": read_rope(raw, head_dim),
            "windows": _read_windows(raw),
            "qkv_bias": has_bias or model_type == "qwen2",
            "out_bias": has_bias,
            "qk_norm": model_type == "qwen3",
        }

    def write_special(self) -> dict[str, Any]:
        special = write_rope(self.rope, self.head_dim)
        if self.model_type in ("llama", "qwen3"):
            special["attention_bias"] = self.out_bias
        used = [window for window in self.windows if window is not None]
        special["sliding_window"] = used[0] if used else None
        if self.model_type.startswith("qwen"):
            kinds = ["full_attention" if w is None else "sliding_attention" for w in self.windows]
            special |= {"use_sliding_window": bool(used), "layer_types": kinds}
        return special


def _read_windows(raw: Mapping[str, Any]) -> tuple[int | None, ...]:
    num_layers: int = min(raw.get("num_hidden_layers", 0), MOST_LAYERS)
    usual = WINDOW_EVERYWHERE.get(raw["model_type"], 4096)
    window: int | None = raw.get("sliding_window", usual)
    if raw["model_type"] in WINDOW_EVERYWHERE:
        return (window,) * num_layers
    if not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    kinds = raw.get("layer_types")
    if kinds is not None:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = raw.get("max_window_layers", 28)
    return tuple(None if i < first else window for i in range(num_layers))


WINDOW_EVERYWHERE = {"mistral": 4096, "mixtral": None}
"""Whose layers all have the window of the config, and which it is if the config has none."""


def attention_shapes(config: LlamaConfig) -> list[AttentionShape]:
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    return [AttentionShape(heads, kv_heads, width, w, is_cached=True) for w in config.windows]


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.dropout = config.attention_dropout
        window = config.windows[layer]
        self.window: Mask = Full() if window is None else Window(left=window - 1)
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.query = nn.Linear(config.hidden_size, q_width, bias=config.qkv_bias)
        self.key = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.value = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.out = nn.Linear(q_width, config.hidden_size, bias=config.out_bias)
        eps = config.rms_norm_eps
        self.query_norm = RMSNorm(config.head_dim, eps=eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim, eps=eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, rotate: Rotation, mask: Mask, cache: Cache | None) -> Tensor:
        q_BTHK = self.query_norm(self.query(x_BTD).unflatten(-1, (-1, self.head_dim)))
        k_BTGK = self.key_norm(self.key(x_BTD).unflatten(-1, (-1, self.head_dim)))
        v_BTGK = self.value(x_BTD).unflatten(-1, (-1, self.head_dim))
        y_BHTK = attend(
            cache,
            self.layer,
            rotate(q_BTHK.transpose(1, 2)),
            rotate(k_BTGK.transpose(1, 2)),
            v_BTGK.transpose(1, 2),
            mask=mask & self.window,
            dropout=self.dropout if self.training else 0.0,
        )
        y_BTD: Tensor = self.out(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD


class LlamaBlock(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = LlamaAttention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = GatedFeedForward(
            config.hidden_size,
            config.intermediate_size,
            activation=config.hidden_act,
            bias=config.mlp_bias,
        )

    def forward(self, x_BTD: Tensor, rotate: Rotation, mask: Mask, cache: Cache | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotate, mask, cache)
        y_BTD: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return y_BTD


class Llama(Body):
    """From token ids to the last hidden states."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(LlamaBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

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
        x_BTD: Tensor = self.embedding(ids_BT)
        rotate = self.config.rope.rotation(positions_BT, dtype=x_BTD.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotate, mask or Causal(), cache)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        y_BTD: Tensor = self.norm(x_BTD)
        return y_BTD

    def attention_shapes(self) -> list[AttentionShape]:
        return attention_shapes(self.config)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = under(
            prefix, {"embedding.weight": "embed_tokens.weight", "norm.weight": "norm.weight"}
        )
        for i, block in enumerate(self.blocks):
            for ours, _ in block.named_parameters():
                part, _, kind = ours.rpartition(".")
                names[f"blocks.{i}.{ours}"] = One(f"{prefix}layers.{i}.{LAYER[part]}.{kind}")
        return names


LAYER = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


class LlamaTokenClassifier(TokenClassifier):
    NAME = "score"


FAMILY = Family(
    model_types={"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"},
    config=LlamaConfig,
    body=Llama,
    prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
    tasks={
        "causal_lm": CausalLM,
        "sequence_classification": LastTokenClassifier,
        "token_classification": LlamaTokenClassifier,
        "reward": Reward,
    },
)
