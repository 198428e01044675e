"""BigBird (Zaheer et al. 2020, arXiv:2007.14062): BERT for long documents. A text is cut into
blocks, and a block looks at its neighbours, at the first and the last block, and at a few random
ones (`bigbird_blocks`). Time and memory grow with the length, not with its square. A text too short
for that is attended to in full, and so is every text where `attention_type` is `original_full`.

The last block is that of the batch: padding behind a text moves it, and changes what the text's
blocks look at. (As in Hugging Face's BigBird; which attends in full for ever after one short text.)

Shapes: N rows of a packed batch, B texts of a run, T tokens, S keys, D hidden width, H heads, K
width of a head; of `Looks`: M blocks of queries, N of keys.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.bert import BertMaskedLM, BertMLP
from pharos.models.bigbird_blocks import BlockPattern, Looks, find_looks
from pharos.models.config import check_size
from pharos.models.encoder import EncoderConfig, PackedEncoder, add_token_types, layer_map
from pharos.models.encoder_heads import (
    FirstTokenClassifier,
    QuestionAnswering,
    SpanLogits,
    TokenClassifier,
)
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.weight_map import Source
from pharos.ops.attention import attention
from pharos.ops.masks import BlockTable, Full, Mask, Valid
from pharos.ops.packing import Packed, Run

NEVER = 1e6
"""Taken off the logits of what cannot be an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BigBirdConfig(EncoderConfig):
    """`sep_token_id` ends a question."""

    FIXED: ClassVar[Mapping[str, Any]] = {"is_decoder": False, "add_cross_attention": False}

    model_type: str = "big_bird"
    attention_type: str = "block_sparse"
    block_size: int = 64
    num_random_blocks: int = 3
    use_bias: bool = True
    rescale_embeddings: bool = False
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 4096
    sep_token_id: int = 66

    def __post_init__(self) -> None:
        super(BigBirdConfig, self).__post_init__()
        check_size(block_size=self.block_size)
        check_size(num_random_blocks=self.num_random_blocks, least=0)
        if self.attention_type not in ("block_sparse", "original_full"):
            raise ModelError(
                f"config.json: attention_type is {self.attention_type!r}; choose from "
                "block_sparse, original_full"
            )

    @property
    def pattern(self) -> BlockPattern:
        return BlockPattern(
            size=self.block_size,
            num_random=self.num_random_blocks,
            num_heads=self.num_attention_heads,
            max_positions=self.max_position_embeddings,
        )


class BigBirdAttention(nn.Module):
    def __init__(self, config: BigBirdConfig, layer: int) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.use_bias
        self.layer, self.num_heads = layer, config.num_attention_heads
        self.dropout = config.attention_dropout
        self.pattern = config.pattern if config.attention_type == "block_sparse" else None
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
        outputs = []
        for run in runs:
            x_BTD = x_ND[run.rows].view(run.texts, run.length, -1)
            outputs.append(self.within(x_BTD, run.mask).flatten(0, 1))
        y_ND: Tensor = self.out(torch.cat(outputs))
        return y_ND

    def within(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        """Attention in texts of one length."""
        q_BHTK, k_BHTK, v_BHTK = (
            linear(x_BTD).view(*x_BTD.shape[:2], self.num_heads, -1).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        pattern, length = self.pattern, x_BTD.shape[1]
        if pattern is None or length <= pattern.reach * pattern.size:
            mask: Mask = Full() if valid_BT is None else Valid(valid_BT)
            dropout = self.dropout if self.training else 0.0
            y_BHTK = attention(q_BHTK, k_BHTK, v_BHTK, mask=mask, dropout=dropout)
        else:
            seed = self.layer if self.training else None
            looks = find_looks(pattern, -(-length // pattern.size), seed=seed)
            y_BHTK = attend_in_blocks(q_BHTK, k_BHTK, v_BHTK, valid_BT, looks, pattern.size)
        return y_BHTK.transpose(1, 2).flatten(2)


def attend_in_blocks(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTK: Tensor,
    valid_BT: Tensor | None,
    looks: Looks,
    size: int,
) -> Tensor:
    """Attention to the blocks of keys that `looks` says, of which some may stand there again behind
    the others. (In training, no weights are dropped.)"""
    table_HMN = looks.table_HMN.to(q_BHTK.device)
    if len(looks.places_N) > table_HMN.shape[1]:
        places_N1 = torch.tensor(looks.places_N, device=q_BHTK.device)[:, None]
        place_S = (places_N1 * size + torch.arange(size, device=q_BHTK.device)).flatten()
        is_there_S = place_S < k_BHTK.shape[2]
        place_S = place_S.where(is_there_S, 0)
        k_BHTK, v_BHTK = k_BHTK[:, :, place_S], v_BHTK[:, :, place_S]
        valid_BT = is_there_S[None] if valid_BT is None else valid_BT[:, place_S] & is_there_S
    mask: Mask = BlockTable(size, table_HMN)
    if valid_BT is not None:
        mask = mask & Valid(valid_BT)
    return attention(q_BHTK, k_BHTK, v_BHTK, mask=mask, q_start=0)


class BigBirdLayer(nn.Module):
    def __init__(self, config: BigBirdConfig, layer: int) -> None:
        super().__init__()
        self.attention = BigBirdAttention(config, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BertMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
        x_ND = self.attention_norm(x_ND + self.dropout(self.attention(x_ND, runs)))
        y_ND: Tensor = self.mlp_norm(x_ND + self.dropout(self.mlp(x_ND)))
        return y_ND


class BigBird(PackedEncoder):
    """From tokens to their last hidden states."""

    can_tighten: ClassVar[bool] = False  # the random blocks depend on the length

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config, width=config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(BigBirdLayer(config, i) for i in layers)

    def encode(self, batch: Packed) -> Tensor:
        x_ND = self.embed(batch)
        for layer in self.layers:
            x_ND = layer(x_ND, batch.runs)
        return x_ND

    def embed(self, batch: Packed) -> Tensor:
        """BERT's, but dropped before they are normalised, and perhaps scaled."""
        scale = math.sqrt(self.config.hidden_size) if self.config.rescale_embeddings else 1.0
        x_ND = self.embedding(batch.ids) * scale + self.position(batch.positions)
        x_ND = add_token_types(x_ND, self.token_type, batch.token_types)
        y_ND: Tensor = self.embedding_norm(self.dropout(x_ND))
        return y_ND

    def attention_shapes(self) -> list[AttentionShape]:
        config, shapes = self.config, super().attention_shapes()
        if config.attention_type == "original_full":
            return shapes
        reach = (5 + config.num_random_blocks) * config.block_size
        return [shape._replace(reach=reach) for shape in shapes]

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources = super().weight_map(prefix)
        for i in range(len(self.layers)):
            sources |= layer_map(f"layers.{i}.", f"{prefix}encoder.layer.{i}.", LAYER)
        has = {name for name, _ in self.named_parameters()}
        return {name: source for name, source in sources.items() if name in has}


LAYER = {
    "attention.query": ("attention.self.query",),
    "attention.key": ("attention.self.key",),
    "attention.value": ("attention.self.value",),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}


class BigBirdClassifier(FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "classifier.dense",
        "out": "classifier.out_proj",
    }

    def __init__(self, body: Body) -> None:
        super().__init__(body, first_dropout=body.config.head_dropout)
        self.gelu = self.config.gelu()

    def activation(self, x_BD: Tensor) -> Tensor:
        y_BD: Tensor = self.gelu(x_BD)
        return y_BD


class BigBirdReward(BigBirdClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


class BigBirdQuestionAnswering(QuestionAnswering):
    """`[CLS] question [SEP] text [SEP]`, with one more feed-forward on top of the body. No answer
    lies in the question; the first token stands for none."""

    NAMES: ClassVar[Mapping[str, str]] = {
        "mlp.up": "qa_classifier.intermediate.dense",
        "mlp.down": "qa_classifier.output.dense",
        "norm": "qa_classifier.output.LayerNorm",
        "out": "qa_classifier.qa_outputs",
    }

    def __init__(self, body: Body) -> None:
        super().__init__(body, dropout=body.config.hidden_dropout)
        self.mlp = BertMLP(self.config)
        self.norm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
    ) -> SpanLogits:
        """See the body's `forward` for the arguments. The question is, unless the token types say
        otherwise, segment 0, and the rest segment 1."""
        question_BT = self.question(ids_BT)
        types_BT = (~question_BT).long() if token_types_BT is None else token_types_BT
        x_BTD = self.body(ids_BT, valid_BT=valid_BT, token_types_BT=types_BT)
        question_BT[:, 0] = False
        start_BT, end_BT = self.logits(x_BTD)
        return SpanLogits(start_BT - NEVER * question_BT, end_BT - NEVER * question_BT)

    def question(self, ids_BT: Tensor) -> Tensor:
        """What stands before the first separator, and this itself."""
        is_separator_BT = ids_BT == self.config.sep_token_id
        if not is_separator_BT.any(dim=1).all():
            raise ValueError(
                f"a text without the separator {self.config.sep_token_id}, which ends the question"
            )
        is_question_BT: Tensor = is_separator_BT.cumsum(1) - is_separator_BT.long() == 0
        return is_question_BT

    def logits(self, x_BTD: Tensor) -> SpanLogits:
        y_BTD = self.norm(x_BTD + self.dropout(self.mlp(self.dropout(x_BTD))))
        return SpanLogits(*self.out(y_BTD).unbind(-1))


FAMILY = Family(
    model_types={"big_bird": "BigBird"},
    config=BigBirdConfig,
    body=BigBird,
    prefix="bert.",
    ignored=(r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\.", r"cls\."),
    tasks={
        "masked_lm": BertMaskedLM,
        "sequence_classification": BigBirdClassifier,
        "token_classification": TokenClassifier,
        "question_answering": BigBirdQuestionAnswering,
        "reward": BigBirdReward,
    },
)
