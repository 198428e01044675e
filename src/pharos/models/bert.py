"""BERT, the encoder (Devlin et al. 2018, arXiv:1810.04805): post-norm, GELU, learned positions.

The batch is packed: the tokens of all texts stand one after another (`pharos.ops.packing`). Query,
key and value are one linear, which the checkpoint keeps as three.

Shapes: N rows of the batch, D hidden width, H heads, K width of a head (D = H·K).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.weight_map import Joined, One, Source, under
from pharos.ops import Packed, Run, packed_attention


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig:
    """The names are those of Hugging Face's `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Raises ModelError where the config asks for another network than this one."""
        required = {"model_type": "bert", "hidden_act": "gelu"}
        allowed = {"position_embedding_type": "absolute", "is_decoder": False}
        for key, value in (required | allowed).items():
            found = config.get(key, value if key in allowed else None)
            if found != value:
                raise ModelError(f"config.json: {key} is {found!r}; this BERT has {value!r} only")
        names = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in config.items() if key in names})
        except TypeError as error:
            raise ModelError(f"config.json: {error}") from error


class BertEmbeddings(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids_N: Tensor, positions_N: Tensor) -> Tensor:
        first_type_D = self.token_type.weight[0]
        x_ND: Tensor = self.norm(self.word(ids_N) + self.position(positions_N) + first_type_D)
        return x_ND


class BertAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
        qkv_N3HK = self.qkv(x_ND).unflatten(-1, (3, self.num_heads, -1))
        y_ND: Tensor = self.out(packed_attention(qkv_N3HK, runs).flatten(1))
        return y_ND


class BertMLP(nn.Sequential):
    def __init__(self, config: BertConfig) -> None:
        up = nn.Linear(config.hidden_size, config.intermediate_size)
        down = nn.Linear(config.intermediate_size, config.hidden_size)
        super().__init__(OrderedDict(up=up, gelu=nn.GELU(), down=down))


class BertLayer(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BertMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
        x_ND = self.attention_norm(x_ND + self.attention(x_ND, runs))
        y_ND: Tensor = self.mlp_norm(x_ND + self.mlp(x_ND))
        return y_ND


class Bert(nn.Module):
    """From the tokens of a packed batch to their last hidden states."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, batch: Packed) -> Tensor:
        """Hidden states `[N, D]`; the rows that are padding hold nothing of meaning."""
        x_ND: Tensor = self.embeddings(batch.ids, batch.positions)
        for layer in self.layers:
            x_ND = layer(x_ND, batch.runs)
        return x_ND


IGNORED_WEIGHTS = ("embeddings.position_ids", "pooler.", "cls.")
"""What a checkpoint may hold beside the encoder: a buffer of old versions, and training heads."""

EMBEDDINGS = {
    "embeddings.word.weight": "embeddings.word_embeddings.weight",
    "embeddings.position.weight": "embeddings.position_embeddings.weight",
    "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
    "embeddings.norm.weight": "embeddings.LayerNorm.weight",
    "embeddings.norm.bias": "embeddings.LayerNorm.bias",
}
LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}


def weight_map(config: BertConfig, prefix: str = "") -> dict[str, Source]:
    """Our parameters, and the checkpoint's tensors below `prefix` that make them up."""
    parts = under(prefix, EMBEDDINGS)
    for i in range(config.num_hidden_layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                names = tuple(f"{prefix}encoder.layer.{i}.{part}.{kind}" for part in theirs)
                source = One(*names) if len(names) == 1 else Joined(names)
                parts[f"layers.{i}.{ours}.{kind}"] = source
    return parts
