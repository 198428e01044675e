"""DeBERTa v2 and v3 (He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543): an encoder whose
attention keeps apart what a token says and where it stands.

The score of a query at position i and a key at position j is the sum of three products over the
square root of three times the width:

    content to content   q_i · k_j
    content to position  q_i · K[δ(i, j)]
    position to content  Q[δ(j, i)] · k_j

where K and Q are made of one table of relative positions that all layers share, and δ is the
distance, in buckets that grow logarithmically. The tables have no absolute positions in most
checkpoints, so a text may be of any length; far distances share the last bucket. The scores of a
whole text are one matrix: memory grows with the square of its length.

Shapes: B texts, T tokens, D hidden width, E width of an embedding, H heads, K width of a head,
R relative positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.bert import BertMLP
from pharos.models.config import check_choice, check_divides, check_same
from pharos.models.encoder import EncoderConfig, add_token_types, check_length
from pharos.models.encoder_heads import (
    FirstTokenClassifier,
    MaskedLM,
    QuestionAnswering,
    TokenClassifier,
)
from pharos.models.family import Body, Family
from pharos.models.weight_map import One, Source
from pharos.ops.feed_forward import ACTIVATIONS
from pharos.ops.positions import distances

FUNCTIONS = {**ACTIVATIONS, "tanh": torch.tanh}


@dataclass(frozen=True, kw_only=True, slots=True)
class DebertaConfig(EncoderConfig):
    """`pos_att_type` says which of the products with positions there are (`c2p`, `p2c`); with
    `share_att_key` they use the projections of the contents. `conv_kernel_size` above 0 adds a
    convolution to the first layer. `legacy` is the masked LM's older head."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **EncoderConfig.RENAMED,
        "classifier_dropout": "cls_dropout",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {"model_type": "deberta-v2"}

    model_type: str = "deberta-v2"
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    embedding_size: int
    relative_attention: bool = False
    pos_att_type: tuple[str, ...] = ()
    share_att_key: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    position_biased_input: bool = True
    norm_rel_ebd: str = "none"
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    legacy: bool = True

    def __post_init__(self) -> None:
        super(DebertaConfig, self).__post_init__()
        self.check_sizes("embedding_size", "conv_groups")
        self.check_sizes("max_relative_positions", "position_buckets", least=-1)
        if self.position_buckets > 0:
            self.check_sizes("position_buckets", least=2, most=2 * (self.max_distance - 2))
        self.check_sizes("conv_kernel_size", least=0, most=1023)
        check_divides(hidden_size=self.hidden_size, conv_groups=self.conv_groups)
        check_choice("conv_act", self.conv_act, FUNCTIONS)
        check_choice("pooler_hidden_act", self.pooler_hidden_act, FUNCTIONS)
        for product in self.pos_att_type:
            check_choice("pos_att_type", product, ("c2p", "p2c"))
        if self.conv_kernel_size and self.conv_kernel_size % 2 == 0:
            raise ModelError(
                f"config.json: conv_kernel_size is {self.conv_kernel_size}; it must be odd"
            )

    @property
    def num_products(self) -> int:
        """How many products make up a score."""
        return 1 + len(set(self.pos_att_type))

    @property
    def reach(self) -> int:
        """How many relative positions the table has to each side."""
        return self.position_buckets if self.position_buckets > 0 else self.max_distance

    @property
    def max_distance(self) -> int:
        far = self.max_relative_positions
        return far if far > 0 else self.max_position_embeddings

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        return ("pos_att_type",)

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        special = super(DebertaConfig, cls).read_special(raw)
        products = raw.get("pos_att_type") or ()
        if isinstance(products, str):
            products = [part.strip() for part in products.lower().split("|")]
        width, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
        check_same("pooler_hidden_size", raw.get("pooler_hidden_size", width), width)
        if isinstance(width, int) and isinstance(heads, int) and heads > 0:
            head_width = width // heads
            found = raw.get("attention_head_size", head_width)
            check_same("attention_head_size", found, head_width)
        return special | {
            "pos_att_type": tuple(products) if isinstance(products, list) else products,
            "embedding_size": raw.get("embedding_size", width),
        }

    def write_special(self) -> dict[str, Any]:
        return {"pos_att_type": list(self.pos_att_type) or None}


def log_buckets(distance_R: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Half of the buckets to each side hold one distance each, the others grow logarithmically up
    to `max_distance`. A distance to the left has the negative bucket of that to the right."""
    exact = num_buckets // 2
    away_R = distance_R.abs()
    octaves_R = (away_R.clamp(min=exact) / exact).log()
    span = torch.tensor((max_distance - 1) / exact).log()
    far_R = (octaves_R / span * (exact - 1)).ceil().long() + exact
    return torch.where(away_R <= exact, away_R, far_R) * distance_R.sign()


class Relative(NamedTuple):
    """The vectors of the relative positions, `[R, D]`, and which one belongs to each pair of a
    query and a key, `[T, T]`."""

    table_RD: Tensor
    index_TT: Tensor


class DisentangledAttention(nn.Module):
    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.scale = (width // self.num_heads * config.num_products) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.has_c2p = config.relative_attention and "c2p" in config.pos_att_type
        self.has_p2c = config.relative_attention and "p2c" in config.pos_att_type
        is_shared = config.share_att_key
        self.position_key = nn.Linear(width, width) if self.has_c2p and not is_shared else None
        self.position_query = nn.Linear(width, width) if self.has_p2c and not is_shared else None
        self.dropout = nn.Dropout(config.attention_dropout)
        self.table_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor, relative: Relative | None) -> Tensor:
        q_BHTK, k_BHTK = self._heads(self.query(x_BTD)), self._heads(self.key(x_BTD))
        scores_BHTT = q_BHTK @ k_BHTK.mT
        if relative is not None:
            scores_BHTT = self._add_position_scores(scores_BHTT, q_BHTK, k_BHTK, relative)
        scores_BHTT = scores_BHTT * self.scale
        lowest = torch.finfo(scores_BHTT.dtype).min
        scores_BHTT = scores_BHTT.masked_fill(~valid_BT[:, None, None, :], lowest)
        weights_BHTT = self.dropout(scores_BHTT.softmax(dim=-1))
        mixed_BHTK = weights_BHTT @ self._heads(self.value(x_BTD))
        y_BTD: Tensor = self.out(mixed_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    def _add_position_scores(
        self, scores_BHTT: Tensor, q_BHTK: Tensor, k_BHTK: Tensor, relative: Relative
    ) -> Tensor:
        table_1RD = self.table_dropout(relative.table_RD)[None]
        index_BHTT = relative.index_TT.expand_as(scores_BHTT)
        if self.has_c2p:
            key_1HRK = self._heads((self.position_key or self.key)(table_1RD))
            scores_BHTT = scores_BHTT + (q_BHTK @ key_1HRK.mT).gather(-1, index_BHTT)
        if self.has_p2c:
            query_1HRK = self._heads((self.position_query or self.query)(table_1RD))
            scores_BHTT = scores_BHTT + (k_BHTK @ query_1HRK.mT).gather(-1, index_BHTT.mT).mT
        return scores_BHTT

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:-1], self.num_heads, -1).transpose(1, 2)


class DebertaLayer(nn.Module):
    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.attention = DisentangledAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BertMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor, relative: Relative | None) -> Tensor:
        attended_BTD = self.attention(x_BTD, valid_BT, relative)
        x_BTD = self.attention_norm(x_BTD + self.dropout(attended_BTD))
        y_BTD: Tensor = self.mlp_norm(x_BTD + self.dropout(self.mlp(x_BTD)))
        return y_BTD


class Convolution(nn.Module):
    """Beside the first layer, v2 looks at each token's neighbours with a convolution."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        width, size = config.hidden_size, config.conv_kernel_size
        self.activation = FUNCTIONS[config.conv_act]
        self.conv = nn.Conv1d(width, width, size, padding=size // 2, groups=config.conv_groups)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTD: Tensor, layer_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """`x_BTD` went into the first layer, and `layer_BTD` came out of it."""
        invalid_BT1 = ~valid_BT[:, :, None]
        y_BTD = self.conv(x_BTD.mT).mT.masked_fill(invalid_BT1, 0.0)
        x_BTD = self.norm(layer_BTD + self.activation(self.dropout(y_BTD)))
        return x_BTD.masked_fill(invalid_BT1, 0.0)


class Deberta(Body):
    """From token ids to the last hidden states."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.config = config
        width, narrow, eps = config.hidden_size, config.embedding_size, config.layer_norm_eps
        is_biased, num_types = config.position_biased_input, config.type_vocab_size
        self.max_positions = config.max_position_embeddings if is_biased else None
        self.embedding = nn.Embedding(config.vocab_size, narrow)
        self.position = nn.Embedding(config.max_position_embeddings, narrow) if is_biased else None
        self.token_type = nn.Embedding(num_types, narrow) if num_types else None
        self.widen = nn.Linear(narrow, width, bias=False) if narrow != width else nn.Identity()
        self.embedding_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        is_relative = config.relative_attention
        self.relative = nn.Embedding(2 * config.reach, width) if is_relative else None
        is_normed = "layer_norm" in config.norm_rel_ebd
        self.relative_norm = nn.LayerNorm(width, eps=eps) if is_normed else nn.Identity()
        self.convolution = Convolution(config) if config.conv_kernel_size else None
        self.layers = nn.ModuleList(DebertaLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `[B, T, D]`. `valid_BT` is true where a token is one and false where it is
        padding (default: all are tokens); what stands at padding has no meaning."""
        check_length(ids_BT.shape[1], self.max_positions)
        valid_BT = torch.ones_like(ids_BT) if valid_BT is None else valid_BT
        valid_BT = valid_BT.bool()
        x_BTD = embedded_BTD = self.embed(ids_BT, valid_BT, token_types_BT)
        relative = self.relative_positions(ids_BT.shape[1])
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, valid_BT, relative)
            if i == 0 and self.convolution is not None:
                x_BTD = self.convolution(embedded_BTD, x_BTD, valid_BT)
        return x_BTD

    def embed(self, ids_BT: Tensor, valid_BT: Tensor, token_types_BT: Tensor | None) -> Tensor:
        x_BTE: Tensor = self.embedding(ids_BT)
        if self.position is not None:
            x_BTE = x_BTE + self.position.weight[: ids_BT.shape[1]]
        x_BTE = add_token_types(x_BTE, self.token_type, token_types_BT)
        x_BTD = self.embedding_norm(self.widen(x_BTE))
        y_BTD: Tensor = self.dropout(x_BTD.masked_fill(~valid_BT[:, :, None], 0.0))
        return y_BTD

    def relative_positions(self, num_tokens: int) -> Relative | None:
        if self.relative is None:
            return None
        config, device = self.config, self.relative.weight.device
        away_R = distances(num_tokens, device)
        if config.position_buckets > 0:
            away_R = log_buckets(away_R, config.position_buckets, config.max_distance)
        row_R = (away_R + config.reach).clamp(0, 2 * config.reach - 1)
        position_T = torch.arange(num_tokens, device=device)
        index_TT = row_R[position_T[:, None] - position_T + num_tokens - 1]
        return Relative(self.relative_norm(self.relative.weight), index_TT)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        for ours, _ in self.named_parameters():
            part, _, kind = ours.rpartition(".")
            if part in BODY:
                sources[ours] = One(f"{prefix}{BODY[part]}.{kind}")
        for i, layer in enumerate(self.layers):
            for ours, _ in layer.named_parameters():
                part, _, kind = ours.rpartition(".")
                theirs = f"{prefix}encoder.layer.{i}.{LAYER[part]}.{kind}"
                sources[f"layers.{i}.{ours}"] = One(theirs)
        return sources


BODY = {
    "embedding": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "widen": "embeddings.embed_proj",
    "embedding_norm": "embeddings.LayerNorm",
    "relative": "encoder.rel_embeddings",
    "relative_norm": "encoder.LayerNorm",
    "convolution.conv": "encoder.conv.conv",
    "convolution.norm": "encoder.conv.LayerNorm",
}
LAYER = {
    "attention.query": "attention.self.query_proj",
    "attention.key": "attention.self.key_proj",
    "attention.value": "attention.self.value_proj",
    "attention.position_key": "attention.self.pos_key_proj",
    "attention.position_query": "attention.self.pos_query_proj",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


class DebertaMaskedLM(MaskedLM):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "": "cls.predictions",
    }
    NEWER_NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "lm_predictions.lm_head.dense",
        "norm": "lm_predictions.lm_head.LayerNorm",
        "": "lm_predictions.lm_head",
    }

    def names(self) -> Mapping[str, str]:
        return self.NAMES if self.config.legacy else self.NEWER_NAMES


class DebertaClassifier(FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {"dense": "pooler.dense", "out": "classifier"}

    def __init__(self, body: Body) -> None:
        super().__init__(body, first_dropout=body.config.pooler_dropout)

    def activation(self, x_BD: Tensor) -> Tensor:
        return FUNCTIONS[self.config.pooler_hidden_act](x_BD)


class DebertaReward(DebertaClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


class DebertaTokenClassifier(TokenClassifier):
    def __init__(self, body: Body) -> None:
        super().__init__(body, dropout=body.config.hidden_dropout)


FAMILY = Family(
    model_types={"deberta-v2": "DebertaV2"},
    config=DebertaConfig,
    body=Deberta,
    prefix="deberta.",
    ignored=(
        r"(deberta\.)?embeddings\.position_",
        r"(lm|mask)_predictions\.",
        r"cls\.",
        r"pooler\.",
    ),
    tasks={
        "masked_lm": DebertaMaskedLM,
        "sequence_classification": DebertaClassifier,
        "token_classification": DebertaTokenClassifier,
        "question_answering": QuestionAnswering,
        "reward": DebertaReward,
    },
)
