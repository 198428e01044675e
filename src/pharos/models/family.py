"""What a file of an architecture says about itself, so that a checkpoint finds its way to it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pharos.models.config import ModelConfig
from pharos.models.weight_map import Source

Task = Literal[
    "body",
    "causal_lm",
    "seq2seq_lm",
    "encoder",
    "masked_lm",
    "pretraining",
    "next_sentence",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "reward",
]

ARCHITECTURES: Mapping[str, Task] = {
    "Model": "body",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq_lm",
    "MTModel": "seq2seq_lm",
    "EncoderModel": "encoder",
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "pretraining",
    "ForNextSentencePrediction": "next_sentence",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}
"""The ending of a Hugging Face class name, and the task that it is for."""


class Model(nn.Module, ABC):
    """A body, or a body with a head: a module that has a config, and says where its parameters
    stand in a checkpoint."""

    config: Any

    @property
    def dtype(self) -> torch.dtype:
        """What its hidden states are: the type of its norms, however its matrices are kept."""
        vectors = (p for p in self.parameters() if p.ndim == 1 and p.is_floating_point())
        return next(vectors).dtype

    @abstractmethod
    def weight_map(self, prefix: str) -> dict[str, Source]:
        """`prefix` is what the body's tensors have in front of their names in the checkpoint."""

    def copies(self, prefix: str) -> dict[str, str]:
        """Names under which a file may hold a tied weight once more, and the name in the map."""
        return {}

    def initial_std(self, name: str) -> float:
        """The standard deviation with which the matrix of this name begins its training."""
        body = getattr(self, "body", None)
        if isinstance(body, Body) and name.startswith("body."):
            return body.initial_std(name.removeprefix("body."))
        std: float = self.config.initializer_range
        return std


class AttentionShape(NamedTuple):
    """One time that a token looks at others: at most `reach` of them, if there is a limit. Where
    `is_cached`, a decoder keeps the keys and values of each token that it has read or written."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    reach: int | None = None
    is_cached: bool = False


class Body(Model):
    """From token ids to hidden states. `max_positions` is how many there are, where each has a
    vector of its own; None where positions are computed."""

    embedding: nn.Embedding
    max_positions: int | None = None

    def attention_shapes(self) -> list[AttentionShape]:
        """For each time that a token looks at others on its way. (Here: the layers of an encoder,
        whose heads share the hidden width.)"""
        heads, width = self.config.num_attention_heads, self.config.hidden_size
        return [AttentionShape(heads, heads, width // heads)] * self.config.num_hidden_layers

    def shared_passes(self) -> list[nn.Module]:
        """Layers that a token passes more than once, each as often as it does."""
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """`model_types` gives each `model_type` the beginning of its class names. `prefix` stands
    before the names of the body's tensors in a checkpoint that has a head. `tasks` gives each task
    its module, made of the body. `ignored` are patterns of tensors that a file may hold beside;
    `renamed` gives endings of old files' names their newer ones.
    """

    model_types: Mapping[str, str]
    config: type[ModelConfig]
    body: Callable[[Any], Body]
    prefix: str
    tasks: Mapping[Task, Callable[[Any], Model]]
    ignored: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    endings: Mapping[Task, str] = field(default_factory=dict)
    """Where the family's class names end in another way than most (`GPT2LMHeadModel`)."""
    left_out: Mapping[Task, str] = field(default_factory=dict)
    """By task, a pattern of the tensors of a whole checkpoint that this part of it does without."""
    complete: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Mapping[str, Any]] | None = None
    """The content of `config.json`, completed by what the tensors tell."""

    def architecture(self, model_type: str, task: Task) -> str:
        """The Hugging Face class that a checkpoint of this task is for."""
        shown: Task = "sequence_classification" if task == "reward" else task
        usual = next(ending for ending, named in ARCHITECTURES.items() if named == shown)
        return self.model_types[model_type] + self.endings.get(shown, usual)

    def task_of(self, architecture: str) -> Task | None:
        """The task that a Hugging Face class is for, or None if it is not one of the family's. Of a
        checkpoint with two heads, a family without such a model takes the masked LM's."""
        for name in self.model_types.values():
            ending = architecture.removeprefix(name)
            if architecture.startswith(name) and ending in ARCHITECTURES:
                task = ARCHITECTURES[ending]
                is_missing = task == "pretraining" and task not in self.tasks
                return "masked_lm" if is_missing else task
        return None

    def new_name(self, name: str) -> str:
        """A tensor's name as files have it today."""
        for old, new in self.renamed.items():
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name
