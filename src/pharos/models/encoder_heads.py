"""Heads on top of an encoder's body. A family's own file gives their parts the checkpoint's names.

Shapes: B texts, T tokens, D hidden width, V vocabulary, C classes.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.models.config import with_labels
from pharos.models.family import Body, Model
from pharos.models.readout import Readout, plain_weight, project
from pharos.models.weight_map import One, Source, below


class EncoderHead(Model):
    """`NAMES` gives the checkpoint's name of each part of the head; `{body}` in it stands for the
    prefix of the body. The part named "" is the head itself."""

    NAMES: ClassVar[Mapping[str, str]]

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.config = body.config
        self.body = body

    def forward(
        self,
        ids_BT: Tensor,
        *,
        valid_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
    ) -> Any:
        """What `logits` gives; see the body's `forward` for the arguments."""
        return self.logits(self.body(ids_BT, valid_BT=valid_BT, token_types_BT=token_types_BT))

    @abstractmethod
    def logits(self, x_BTD: Tensor) -> Any:
        """Of the body's hidden states."""

    def weight_map(self, prefix: str) -> dict[str, Source]:
        sources = below("body", self.body.weight_map(prefix))
        for ours, _ in self.named_parameters():
            if not ours.startswith("body."):
                part, _, kind = ours.rpartition(".")
                sources[ours] = One(f"{self.names()[part].format(body=prefix)}.{kind}")
        return sources

    def names(self) -> Mapping[str, str]:
        return self.NAMES


class MaskedLM(EncoderHead):
    """The score of every token of the vocabulary to be the one behind a mask. The last matrix is
    the embedding again; only its bias is the head's own."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        config = self.config
        if not config.tie_word_embeddings:
            raise ModelError(
                "config.json: tie_word_embeddings is False; a masked LM is built only with the "
                "embedding as its last matrix"
            )
        width = body.embedding.embedding_dim
        self.dense = nn.Linear(config.hidden_size, width)
        self.gelu = config.gelu()
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def logits(self, x_D: Tensor) -> Tensor:
        """`[B, T, V]`. In training, the hidden states behind a mask are enough."""
        return project(self.body.embedding, self.transform(x_D), self.bias)

    def transform(self, x_D: Tensor) -> Tensor:
        y_D: Tensor = self.norm(self.gelu(self.dense(x_D)))
        return y_D

    def readout(self, x_D: Tensor) -> Readout | None:
        """What `logits` multiplies, if that is all it does."""
        weight_VD = plain_weight(self.body.embedding)
        return None if weight_VD is None else Readout(self.transform(x_D), weight_VD, self.bias)


class FirstTokenClassifier(EncoderHead):
    """The first token stands for the whole text: its state goes through one more layer and is
    classified. `NUM_LABELS` overrules the config, `dropout` its classifier's."""

    NUM_LABELS: ClassVar[int | None] = None

    def __init__(
        self, body: Body, *, first_dropout: float = 0.0, dropout: float | None = None
    ) -> None:
        super().__init__(body)
        if self.NUM_LABELS is not None:
            self.config = with_labels(self.config, self.NUM_LABELS)
        config = self.config
        self.first_dropout = nn.Dropout(first_dropout)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.head_dropout if dropout is None else dropout)
        self.out = nn.Linear(config.hidden_size, config.num_labels)

    def activation(self, x_BD: Tensor) -> Tensor:
        return x_BD.tanh()

    def logits(self, x_BTD: Tensor) -> Tensor:
        """`[B, C]`."""
        x_BD = self.activation(self.dense(self.first_dropout(x_BTD[:, 0])))
        y_BC: Tensor = self.out(self.dropout(x_BD))
        return y_BC


class TokenClassifier(EncoderHead):
    """A class for each token. `dropout` overrules the config's."""

    NAMES: ClassVar[Mapping[str, str]] = {"out": "classifier"}

    def __init__(self, body: Body, *, dropout: float | None = None) -> None:
        super().__init__(body)
        self.dropout = nn.Dropout(self.config.head_dropout if dropout is None else dropout)
        self.out = nn.Linear(self.config.hidden_size, self.config.num_labels)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, C]`."""
        y_BTC: Tensor = self.out(self.dropout(x_BTD))
        return y_BTC


class SpanLogits(NamedTuple):
    """How likely an answer starts, and ends, at each token: each `[B, T]`."""

    start: Tensor
    end: Tensor


class QuestionAnswering(EncoderHead):
    """Where in the text the answer stands (Rajpurkar et al. 2016, arXiv:1606.05250)."""

    NAMES: ClassVar[Mapping[str, str]] = {"out": "qa_outputs"}

    def __init__(self, body: Body, *, dropout: float = 0.0) -> None:
        super().__init__(body)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(self.config.hidden_size, 2)

    def logits(self, x_BTD: Tensor) -> SpanLogits:
        """What stands at padding has no meaning."""
        return SpanLogits(*self.out(self.dropout(x_BTD)).unbind(-1))
