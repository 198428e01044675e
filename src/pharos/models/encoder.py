"""What the encoders share: their settings, and the tables that their layers stand on.

An encoder reads a text as a whole. It runs over a packed batch (`pharos.ops.packing`), where the
tokens of all texts stand one after another: `encode`. `forward` takes the usual padded batch and
gives padded hidden states back.

Shapes: B texts, T tokens, N rows of a packed batch, D hidden width.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pharos.models.config import ModelConfig, check_choice, check_divides, check_same
from pharos.models.family import Body
from pharos.models.weight_map import Joined, One, Source, under
from pharos.ops.packing import Packed, pack_padded, tighten

GELUS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""The names of Hugging Face's `hidden_act`, and how torch's GELU is to approximate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(ModelConfig):
    """`classifier_dropout` is that before a classifier; None stands for `hidden_dropout`."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "hidden_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }

    intermediate_size: int
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        super(EncoderConfig, self).__post_init__()
        check_divides(hidden_size=self.hidden_size, num_attention_heads=self.num_attention_heads)
        self.check_sizes("intermediate_size", "max_position_embeddings")
        self.check_sizes("type_vocab_size", least=0)
        check_choice("hidden_act", self.hidden_act, GELUS)

    @property
    def head_dropout(self) -> float:
        chosen = self.classifier_dropout
        return self.hidden_dropout if chosen is None else chosen

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        kind = "position_embedding_type"
        check_same(kind, raw.get(kind, "absolute"), "absolute")
        return super(EncoderConfig, cls).read_special(raw)

    def gelu(self) -> nn.GELU:
        return nn.GELU(approximate=GELUS[self.hidden_act])


class PackedEncoder(Body):
    """Each token's embedding is the sum of its own, its position's and its segment's, normalised.
    An architecture adds its layers in `encode`."""

    max_positions: int
    first_position = 0
    """The row of the position table where a text begins."""
    can_tighten: ClassVar[bool] = True
    """Whether nothing depends on how far a text is padded, so that padding may be left out."""

    def __init__(self, config: EncoderConfig, *, width: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        has_types = config.type_vocab_size > 0
        self.token_type = nn.Embedding(config.type_vocab_size, width) if has_types else None
        self.embedding_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.max_positions = config.max_position_embeddings - self.first_position

    @abstractmethod
    def encode(self, batch: Packed) -> Tensor:
        """Hidden states `[N, D]`; the rows that are padding hold nothing of meaning."""

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `[B, T, D]`. `valid_BT` is true where a token is one and false where it is
        padding (default: all are tokens); what stands at padding has no meaning."""
        batch = self.pack(ids_BT, valid_BT, token_types_BT)
        if not self.can_tighten or ids_BT.device.type != "cpu":
            return self.encode(batch).view(*ids_BT.shape, -1)
        tight, rows_N = tighten(batch)
        x_ND = self.encode(tight)
        padded = x_ND.new_zeros(ids_BT.numel(), x_ND.shape[-1])
        return padded.index_copy(0, rows_N, x_ND).view(*ids_BT.shape, -1)

    def pack(
        self, ids_BT: Tensor, valid_BT: Tensor | None, token_types_BT: Tensor | None
    ) -> Packed:
        """A padded batch as a packed one. Raises ValueError for texts that are too long."""
        check_length(ids_BT.shape[1], self.max_positions)
        return pack_padded(
            ids_BT, self.positions(ids_BT), valid_BT=valid_BT, token_types_BT=token_types_BT
        )

    def positions(self, ids_BT: Tensor) -> Tensor:
        """The positions of a padded batch, `[T]` or `[B, T]`: its columns."""
        return torch.arange(ids_BT.shape[1], device=ids_BT.device)

    def embed(self, batch: Packed) -> Tensor:
        x_ND: Tensor = self.embedding(batch.ids)
        x_ND = x_ND + self.position(batch.positions + self.first_position)
        x_ND = add_token_types(x_ND, self.token_type, batch.token_types)
        y_ND: Tensor = self.dropout(self.embedding_norm(x_ND))
        return y_ND

    def weight_map(self, prefix: str) -> dict[str, Source]:
        """The tables; an architecture adds its layers."""
        names = {
            "embedding.weight": "word_embeddings.weight",
            "position.weight": "position_embeddings.weight",
            "embedding_norm.weight": "LayerNorm.weight",
            "embedding_norm.bias": "LayerNorm.bias",
        }
        if self.token_type is not None:
            names["token_type.weight"] = "token_type_embeddings.weight"
        return under(f"{prefix}embeddings.", names)


def add_token_types(x_D: Tensor, table: nn.Embedding | None, types: Tensor | None) -> Tensor:
    """Embeddings plus those of their segments; None stands for the first segment everywhere."""
    if table is None and types is not None:
        raise ValueError("this model has no token types; leave token_types_BT out")
    if table is None:
        return x_D
    y_D: Tensor = x_D + (table.weight[0] if types is None else table(types))
    return y_D


def check_length(num_tokens: int, max_positions: int | None) -> None:
    if max_positions is not None and num_tokens > max_positions:
        raise ValueError(
            f"a text of {num_tokens} tokens: this model has positions for {max_positions}; cut it, "
            "or read it in windows"
        )


Parts = Mapping[str, tuple[str, ...]]
"""The parts of a layer, and those of the checkpoint's that each is made of."""


def layer_map(ours: str, theirs: str, parts: Parts) -> dict[str, Source]:
    """The weights and biases of one layer, which stands at `ours` here and `theirs` there."""
    sources: dict[str, Source] = {}
    for part, names in parts.items():
        for kind in ("weight", "bias"):
            full = tuple(f"{theirs}{name}.{kind}" for name in names)
            sources[f"{ours}{part}.{kind}"] = One(*full) if len(full) == 1 else Joined(full)
    return sources
