"""The loss of scores over a vocabulary, from hidden states: in chunks, however the head is made."""

from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.models.encoder_heads import MaskedLM
from pharos.models.family import Model, Task
from pharos.models.heads import CausalLM
from pharos.models.readout import Readout
from pharos.models.seq2seq import Seq2SeqLM
from pharos.ops.cross_entropy import (
    TokenLoss,
    chunk_for,
    chunked_cross_entropy,
    recomputed_cross_entropy,
)

M = TypeVar("M", bound=Model)


@runtime_checkable
class HasReadout(Protocol):
    def readout(self, x_D: Tensor) -> Readout | None: ...


def with_head(model: nn.Module, kind: type[M], task: Task) -> M:
    """The model, if it has that head. Raises TrainingError for any other."""
    if not isinstance(model, kind):
        raise TrainingError(
            f"the objective needs a head for {task}, and the model is a {type(model).__name__}; "
            f"build it with the task {task}"
        )
    return model


def token_loss(
    model: CausalLM | MaskedLM | Seq2SeqLM,
    x_D: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
) -> TokenLoss:
    """Of labels `[...]` and the hidden states `[..., D]` that the model's `logits` takes."""
    x_ND, labels_N = x_D.flatten(0, -2), labels.flatten()
    readout = model.readout(x_ND) if isinstance(model, HasReadout) else None
    if readout is not None:
        return chunked_cross_entropy(
            readout.x_D,
            readout.weight_VD,
            labels_N,
            bias=readout.bias_V,
            label_smoothing=label_smoothing,
        )
    return recomputed_cross_entropy(
        model.logits,
        x_ND,
        labels_N,
        chunk=chunk_for(model.config.vocab_size),
        label_smoothing=label_smoothing,
    )
