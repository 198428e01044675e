"""BERT, the encoder (Devlin et al. 2018, arXiv:1810.04805): post-norm, GELU, learned positions.

The network runs over a packed batch (`models.encoder`). Query, key and value are one linear, which
the checkpoint keeps as three. RoBERTa, DistilBERT and ALBERT are made of the same layers.

Shapes: N rows of a packed batch, D hidden width, H heads, K width of a head (D = H·K).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from pharos.models.encoder import EncoderConfig, PackedEncoder, layer_map
from pharos.models.encoder_heads import (
    FirstTokenClassifier,
    MaskedLM,
    QuestionAnswering,
    TokenClassifier,
)
from pharos.models.family import Body, Family
from pharos.models.weight_map import Source
from pharos.ops.packed_attention import packed_attention
from pharos.ops.packing import Packed, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig(EncoderConfig):
    """The settings of `EncoderConfig`."""

    FIXED: ClassVar[Mapping[str, Any]] = {
        "model_type": "bert",
        "is_decoder": False,
        "add_cross_attention": False,
    }

    model_type: str = "bert"


class BertAttention(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
        qkv_N3HK = self.qkv(x_ND).unflatten(-1, (3, self.num_heads, -1))
        dropout = self.dropout if self.training else 0.0
        y_ND: Tensor = self.out(packed_attention(qkv_N3HK, runs, dropout=dropout).flatten(1))
        return y_ND


class BertMLP(nn.Sequential):
    def __init__(self, config: EncoderConfig) -> None:
        up = nn.Linear(config.hidden_size, config.intermediate_size)
        down = nn.Linear(config.intermediate_size, config.hidden_size)
        super().__init__(OrderedDict(up=up, gelu=config.gelu(), down=down))


class BertLayer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BertMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
        x_ND = self.attention_norm(x_ND + self.dropout(self.attention(x_ND, runs)))
        y_ND: Tensor = self.mlp_norm(x_ND + self.dropout(self.mlp(x_ND)))
        return y_ND


class Bert(PackedEncoder):
    """From tokens to their last hidden states."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, width=config.hidden_size)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def encode(self, batch: Packed) -> Tensor:
        x_ND = self.embed(batch)
        for layer in self.layers:
            x_ND = layer(x_ND, batch.runs)
        return x_ND

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources = super().weight_map(prefix)
        for i in range(len(self.layers)):
            sources |= layer_map(f"layers.{i}.", f"{prefix}encoder.layer.{i}.", LAYER)
        return sources


LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}


class BertMaskedLM(MaskedLM):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "": "cls.predictions",
    }


class BertClassifier(FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {"dense": "{body}pooler.dense", "out": "classifier"}


class BertReward(BertClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


class NextSentence(FirstTokenClassifier):
    """Class 0: the second of two segments follows the first in its text. Class 1: it does not."""

    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "{body}pooler.dense",
        "out": "cls.seq_relationship",
    }
    NUM_LABELS = 2

    def __init__(self, body: Body) -> None:
        super().__init__(body, dropout=0.0)


class PreTrainingLogits(NamedTuple):
    """What each token is, `[B, T, V]`, and whether the second segment follows the first, `[B, 2]`:
    the classes of `NextSentence`."""

    tokens: Tensor
    next_sentence: Tensor


class BertPreTraining(BertMaskedLM):
    """Both heads at once, as BERT was trained."""

    NAMES: ClassVar[Mapping[str, str]] = {
        **BertMaskedLM.NAMES,
        "pooler": "{body}pooler.dense",
        "next_sentence": "cls.seq_relationship",
    }

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.pooler = nn.Linear(self.config.hidden_size, self.config.hidden_size)
        self.next_sentence = nn.Linear(self.config.hidden_size, 2)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
    ) -> PreTrainingLogits:
        x_BTD = self.body(ids_BT, valid_BT=valid_BT, token_types_BT=token_types_BT)
        return PreTrainingLogits(self.logits(x_BTD), self.next_sentence_logits(x_BTD))

    def next_sentence_logits(self, x_BTD: Tensor) -> Tensor:
        y_B2: Tensor = self.next_sentence(self.pooler(x_BTD[:, 0]).tanh())
        return y_B2


FAMILY = Family(
    model_types={"bert": "Bert"},
    config=BertConfig,
    body=Bert,
    prefix="bert.",
    ignored=(r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\.", r"cls\."),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    tasks={
        "masked_lm": BertMaskedLM,
        "pretraining": BertPreTraining,
        "next_sentence": NextSentence,
        "sequence_classification": BertClassifier,
        "token_classification": TokenClassifier,
        "question_answering": QuestionAnswering,
        "reward": BertReward,
    },
)
