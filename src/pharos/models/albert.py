"""ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT with few parameters. All layers share one set of
weights (or one for each group of layers), and the embedding is factorised: narrow vectors for the
tokens, widened by one matrix.

Shapes: N rows of a packed batch, E width of an embedding, D hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pharos.models.bert import BertLayer
from pharos.models.config import TokenIds
from pharos.models.encoder import EncoderConfig, PackedEncoder, layer_map
from pharos.models.encoder_heads import (
    FirstTokenClassifier,
    MaskedLM,
    QuestionAnswering,
    TokenClassifier,
)
from pharos.models.family import AttentionShape, Family
from pharos.models.weight_map import Source, under
from pharos.ops.packing import Packed


@dataclass(frozen=True, kw_only=True, slots=True)
class AlbertConfig(EncoderConfig):
    """The layers are in `num_hidden_groups` groups; those of a group are the same `inner_group_num`
    layers, one after another."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **EncoderConfig.RENAMED,
        "classifier_dropout": "classifier_dropout_prob",
    }
    FIXED: ClassVar[Mapping[str, Any]] = {"model_type": "albert"}

    model_type: str = "albert"
    embedding_size: int = 128
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout: float | None = 0.1
    bos_token_id: int | None = 2
    eos_token_id: TokenIds = 3

    def __post_init__(self) -> None:
        super(AlbertConfig, self).__post_init__()
        self.check_sizes("embedding_size")
        self.check_sizes("num_hidden_groups", "inner_group_num", most=self.num_hidden_layers)

    def group(self, layer: int) -> int:
        """Which group a layer belongs to."""
        return layer * self.num_hidden_groups // self.num_hidden_layers

    def of_group(self, group: int) -> range:
        """Which of the layers that have weights make up a group."""
        return range(group * self.inner_group_num, (group + 1) * self.inner_group_num)


class Albert(PackedEncoder):
    """From tokens to their last hidden states."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, width=config.embedding_size)
        self.widen = nn.Linear(config.embedding_size, config.hidden_size)
        num_layers = config.num_hidden_groups * config.inner_group_num
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(num_layers))

    def encode(self, batch: Packed) -> Tensor:
        x_ND: Tensor = self.widen(self.embed(batch))
        for i in range(self.config.num_hidden_layers):
            for j in self.config.of_group(self.config.group(i)):
                x_ND = self.layers[j](x_ND, batch.runs)
        return x_ND

    def shared_passes(self) -> list[nn.Module]:
        layers = range(self.config.num_hidden_layers)
        groups = (self.config.of_group(self.config.group(i)) for i in layers)
        return [self.layers[j] for group in groups for j in group]

    def attention_shapes(self) -> list[AttentionShape]:
        return super().attention_shapes() * int(self.config.inner_group_num)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources = super().weight_map(prefix)
        widen = f"{prefix}encoder.embedding_hidden_mapping_in."
        sources |= under(widen, {"widen.weight": "weight", "widen.bias": "bias"})
        for group in range(self.config.num_hidden_groups):
            for i, j in enumerate(self.config.of_group(group)):
                theirs = f"{prefix}encoder.albert_layer_groups.{group}.albert_layers.{i}."
                sources |= layer_map(f"layers.{j}.", theirs, LAYER)
        return sources


LAYER = {
    "attention.qkv": ("attention.query", "attention.key", "attention.value"),
    "attention.out": ("attention.dense",),
    "attention_norm": ("attention.LayerNorm",),
    "mlp.up": ("ffn",),
    "mlp.down": ("ffn_output",),
    "mlp_norm": ("full_layer_layer_norm",),
}


class AlbertMaskedLM(MaskedLM):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "predictions.dense",
        "norm": "predictions.LayerNorm",
        "": "predictions",
    }


class AlbertClassifier(FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {"dense": "{body}pooler", "out": "classifier"}


class AlbertReward(AlbertClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


FAMILY = Family(
    model_types={"albert": "Albert"},
    config=AlbertConfig,
    body=Albert,
    prefix="albert.",
    ignored=(
        r"(albert\.)?embeddings\.position_ids",
        r"(albert\.)?pooler\.",
        r"predictions\.",
        r"sop_classifier\.",
    ),
    tasks={
        "masked_lm": AlbertMaskedLM,
        "sequence_classification": AlbertClassifier,
        "token_classification": TokenClassifier,
        "question_answering": QuestionAnswering,
        "reward": AlbertReward,
    },
)
