"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): BERT with every other layer, without segments
and without the layer that pools the first token.

Shapes: N rows of a packed batch, B texts, D hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pharos.models.bert import Bert
from pharos.models.encoder import EncoderConfig, PackedEncoder, layer_map
from pharos.models.encoder_heads import (
    FirstTokenClassifier,
    MaskedLM,
    QuestionAnswering,
    TokenClassifier,
)
from pharos.models.family import Body, Family
from pharos.models.weight_map import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilBertConfig(EncoderConfig):
    """`classifier_dropout` is that before the classifier of a whole text, `qa_dropout` that before
    the ends of an answer."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout": "dropout",
        "classifier_dropout": "seq_classif_dropout",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {"model_type": "distilbert"}

    model_type: str = "distilbert"
    type_vocab_size: int = 0
    classifier_dropout: float | None = 0.2
    qa_dropout: float = 0.1

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        return ("type_vocab_size", "layer_norm_eps")


class DistilBert(Bert):
    """From tokens to their last hidden states."""

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources = PackedEncoder.weight_map(self, prefix)
        for i in range(len(self.layers)):
            sources |= layer_map(f"layers.{i}.", f"{prefix}transformer.layer.{i}.", LAYER)
        return sources


LAYER = {
    "attention.qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out": ("attention.out_lin",),
    "attention_norm": ("sa_layer_norm",),
    "mlp.up": ("ffn.lin1",),
    "mlp.down": ("ffn.lin2",),
    "mlp_norm": ("output_layer_norm",),
}


class DistilBertMaskedLM(MaskedLM):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "vocab_transform",
        "norm": "vocab_layer_norm",
        "": "vocab_projector",
    }


class DistilBertClassifier(FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {"dense": "pre_classifier", "out": "classifier"}

    def activation(self, x_BD: Tensor) -> Tensor:
        return x_BD.relu()


class DistilBertReward(DistilBertClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


class DistilBertTokenClassifier(TokenClassifier):
    def __init__(self, body: Body) -> None:
        super().__init__(body, dropout=body.config.hidden_dropout)


class DistilBertQuestionAnswering(QuestionAnswering):
    def __init__(self, body: Body) -> None:
        super().__init__(body, dropout=body.config.qa_dropout)


FAMILY = Family(
    model_types={"distilbert": "DistilBert"},
    config=DistilBertConfig,
    body=DistilBert,
    prefix="distilbert.",
    ignored=(r"(distilbert\.)?embeddings\.position_ids", r"vocab_"),
    tasks={
        "masked_lm": DistilBertMaskedLM,
        "sequence_classification": DistilBertClassifier,
        "token_classification": DistilBertTokenClassifier,
        "question_answering": DistilBertQuestionAnswering,
        "reward": DistilBertReward,
    },
)
