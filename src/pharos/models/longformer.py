"""Longformer (Beltagy et al. 2020, arXiv:2004.05150): RoBERTa for long documents. A token looks at
a window around itself, and at the few tokens that are global. These look at all, with queries, keys
and values of their own. Time and memory grow with the length, not with its square
(but in training with attention dropout, which needs the matrix).

Which tokens are global, the task says: the first one to classify a text, the question's to answer a
question, none to fill in a masked word. `global_BT` overrules it.

Shapes: N rows of a packed batch, B texts of a run, T tokens, G the most global tokens of a text, D
hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.bert import BertMLP
from pharos.models.config import MOST_LAYERS, TokenIds
from pharos.models.encoder import EncoderConfig, PackedEncoder, layer_map
from pharos.models.encoder_heads import (
    EncoderHead,
    FirstTokenClassifier,
    MaskedLM,
    QuestionAnswering,
    TokenClassifier,
)
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.weight_map import Source
from pharos.ops.attention import attention
from pharos.ops.masks import Full, Mask, Valid, Window
from pharos.ops.packing import Packed, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class LongformerConfig(EncoderConfig):
    """`attention_window` has an entry for each layer: how many tokens around itself a token sees,
    half of them on either side. Positions begin after `pad_token_id`; `sep_token_id` ends a
    question."""

    model_type: str = "longformer"
    attention_window: tuple[int, ...]
    sep_token_id: int = 2
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: TokenIds = 2

    def __post_init__(self) -> None:
        super(LongformerConfig, self).__post_init__()
        windows, layers = self.attention_window, self.num_hidden_layers
        if len(windows) != layers:
            raise ModelError(
                f"config.json: attention_window has {len(windows)} entries for {layers} layers"
            )
        if odd := [window for window in windows if window < 2 or window % 2]:
            raise ModelError(
                f"config.json: attention_window is {odd[0]}; it must be even and at least 2"
            )
        pad = self.pad_token_id
        if pad is None or not 0 <= pad < self.max_position_embeddings - 1:
            raise ModelError(
                f"config.json: pad_token_id is {pad}; positions begin after it, so it must be 0 or "
                f"more and leave some of the {self.max_position_embeddings} positions"
            )

    @classmethod
    def read_special(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """One window for all layers, or a list."""
        special = super(LongformerConfig, cls).read_special(raw)
        windows, layers = raw.get("attention_window", 512), raw.get("num_hidden_layers", 0)
        if isinstance(windows, int):
            windows = [windows] * (min(layers, MOST_LAYERS) if isinstance(layers, int) else 0)
        return special | {"attention_window": tuple(windows)}


class LongformerAttention(nn.Module):
    def __init__(self, config: LongformerConfig, layer: int) -> None:
        super().__init__()
        width, reach = config.hidden_size, config.attention_window[layer] // 2
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.window = Window(left=reach, right=reach)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.global_query = nn.Linear(width, width)
        self.global_key = nn.Linear(width, width)
        self.global_value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_ND: Tensor, runs: Sequence[Run], is_global_N: Tensor | None) -> Tensor:
        outputs = []
        for run in runs:
            shape = (run.texts, run.length)
            is_global_BT = None if is_global_N is None else is_global_N[run.rows].view(shape)
            y_BTD = self.within(x_ND[run.rows].view(*shape, -1), run.mask, is_global_BT)
            outputs.append(y_BTD.flatten(0, 1))
        y_ND: Tensor = self.out(torch.cat(outputs))
        return y_ND

    def within(self, x_BTD: Tensor, valid_BT: Tensor | None, is_global_BT: Tensor | None) -> Tensor:
        """Attention in texts of one length."""
        but_padding: Mask = Full() if valid_BT is None else Valid(valid_BT)
        seen: Mask = self.window if is_global_BT is None else self.window | Valid(is_global_BT)
        q_BTD, k_BTD, v_BTD = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        y_BTD = self._attend(q_BTD, k_BTD, v_BTD, seen & but_padding)
        if is_global_BT is None:
            return y_BTD
        where_BG = first_places(is_global_BT)
        x_BGD = x_BTD.gather(1, where_BG[..., None].expand(-1, -1, x_BTD.shape[2]))
        q_BGD, k_BTD, v_BTD = (
            self.global_query(x_BGD),
            self.global_key(x_BTD),
            self.global_value(x_BTD),
        )
        y_BGD = self._attend(q_BGD, k_BTD, v_BTD, but_padding)
        of_global_ND = y_BGD[is_global_BT.gather(1, where_BG)]
        return y_BTD.index_put(is_global_BT.nonzero(as_tuple=True), of_global_ND)

    def _attend(self, q_BTD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask: Mask) -> Tensor:
        q, k, v = (
            x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in (q_BTD, k_BSD, v_BSD)
        )
        dropout = self.dropout if self.training else 0.0
        y_BHTK = attention(q, k, v, mask=mask, q_start=0, dropout=dropout)
        return y_BHTK.transpose(1, 2).flatten(2)


def first_places(is_marked_BT: Tensor) -> Tensor:
    """Where each text's marked tokens stand, in order: `[B, G]`. A text with fewer than the most
    has others behind them."""
    most = int(is_marked_BT.sum(dim=1).max())
    return is_marked_BT.long().argsort(dim=1, descending=True, stable=True)[:, :most]


class LongformerLayer(nn.Module):
    def __init__(self, config: LongformerConfig, layer: int) -> None:
        super().__init__()
        self.attention = LongformerAttention(config, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BertMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_ND: Tensor, runs: Sequence[Run], is_global_N: Tensor | None) -> Tensor:
        of_others_ND = self.attention(x_ND, runs, is_global_N)
        x_ND = self.attention_norm(x_ND + self.dropout(of_others_ND))
        y_ND: Tensor = self.mlp_norm(x_ND + self.dropout(self.mlp(x_ND)))
        return y_ND


class Longformer(PackedEncoder):
    """From tokens to their last hidden states."""

    def __init__(self, config: LongformerConfig) -> None:
        assert config.pad_token_id is not None
        self.first_position = config.pad_token_id + 1
        super().__init__(config, width=config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(LongformerLayer(config, i) for i in layers)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
        global_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `[B, T, D]`. `global_BT` marks the global tokens (default: none)."""
        batch = self.pack(ids_BT, valid_BT, token_types_BT)
        if global_BT is not None:
            batch = batch._replace(is_global=global_BT.flatten().bool())
        return self.encode(batch).view(*ids_BT.shape, -1)

    def encode(self, batch: Packed) -> Tensor:
        is_global_N = batch.is_global
        if is_global_N is not None:
            is_global_N = is_global_N & batch.is_token
            is_global_N = is_global_N if is_global_N.any() else None
        x_ND = self.embed(batch)
        for layer in self.layers:
            x_ND = layer(x_ND, batch.runs, is_global_N)
        return x_ND

    def positions(self, ids_BT: Tensor) -> Tensor:
        """Counted over the tokens that are not padding; padding itself is at -1."""
        is_token_BT = (ids_BT != self.config.pad_token_id).long()
        positions_BT: Tensor = is_token_BT.cumsum(1) * is_token_BT - 1
        return positions_BT

    def attention_shapes(self) -> list[AttentionShape]:
        """Without the global tokens."""
        windows = self.config.attention_window
        shapes = super().attention_shapes()
        return [
            shape._replace(reach=window + 1) for shape, window in zip(shapes, windows, strict=True)
        ]

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources = super().weight_map(prefix)
        for i in range(len(self.layers)):
            sources |= layer_map(f"layers.{i}.", f"{prefix}encoder.layer.{i}.", LAYER)
        return sources


LAYER = {
    "attention.query": ("attention.self.query",),
    "attention.key": ("attention.self.key",),
    "attention.value": ("attention.self.value",),
    "attention.global_query": ("attention.self.query_global",),
    "attention.global_key": ("attention.self.key_global",),
    "attention.global_value": ("attention.self.value_global",),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}


class LongformerHead(EncoderHead):
    """A head that says which tokens are global for its task."""

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
        global_BT: Tensor | None = None,
    ) -> Any:
        """What `logits` gives; see the body's `forward` for the arguments."""
        global_BT = self.task_global(ids_BT) if global_BT is None else global_BT
        x_BTD = self.body(
            ids_BT, valid_BT=valid_BT, token_types_BT=token_types_BT, global_BT=global_BT
        )
        return self.logits(x_BTD)

    def task_global(self, ids_BT: Tensor) -> Tensor | None:
        """`[B, T]`, or None for none."""
        return None


class LongformerMaskedLM(LongformerHead, MaskedLM):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "lm_head.dense",
        "norm": "lm_head.layer_norm",
        "": "lm_head",
    }

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.gelu = nn.GELU()  # whichever the layers have


class LongformerClassifier(LongformerHead, FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "classifier.dense",
        "out": "classifier.out_proj",
    }

    def __init__(self, body: Body) -> None:
        super().__init__(body, first_dropout=body.config.head_dropout)

    def task_global(self, ids_BT: Tensor) -> Tensor:
        return (torch.arange(ids_BT.shape[1], device=ids_BT.device) == 0).expand_as(ids_BT)


class LongformerReward(LongformerClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


class LongformerTokenClassifier(LongformerHead, TokenClassifier):
    """No token is global."""


class LongformerQuestionAnswering(LongformerHead, QuestionAnswering):
    """`<s> question </s></s> text </s>`: what stands before the first separator is global."""

    def task_global(self, ids_BT: Tensor) -> Tensor:
        is_separator_BT = ids_BT == self.config.sep_token_id
        if not is_separator_BT.any(dim=1).all():
            raise ValueError(
                f"a text without the separator {self.config.sep_token_id}: it ends the question, "
                "which is global; put it there, or say by global_BT what is"
            )
        is_question_BT: Tensor = is_separator_BT.cumsum(1) == 0
        return is_question_BT


FAMILY = Family(
    model_types={"longformer": "Longformer"},
    config=LongformerConfig,
    body=Longformer,
    prefix="longformer.",
    ignored=(r"(longformer\.)?embeddings\.position_ids", r"(longformer\.)?pooler\.", r"lm_head\."),
    tasks={
        "masked_lm": LongformerMaskedLM,
        "sequence_classification": LongformerClassifier,
        "token_classification": LongformerTokenClassifier,
        "question_answering": LongformerQuestionAnswering,
        "reward": LongformerReward,
    },
)
