"""What a model is made of and what it costs, told from its `config.json`: no weight is read, and no
memory is taken for one.

    description = describe_config(read_config(folder))
    description.num_parameters, description.weight_bytes("nf4"), description.flops_per_token(4096)
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn

from pharos.models.family import AttentionShape, Body, Model, Task
from pharos.models.load import build_model, family_of, task_in
from pharos.models.placeholders import Unallocated
from pharos.ops.experts import MixtureOfExperts

Precision = Literal["fp32", "bf16", "int8", "nf4"]
CacheDtype = Literal["fp32", "bf16", "int8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BYTES: Mapping[CacheDtype, int] = {"fp32": 4, "bf16": 2, "int8": 1}
NF4_BLOCK = 64
M = TypeVar("M", bound=nn.Module)
LM_TASKS = ("causal_lm", "masked_lm", "seq2seq_lm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Parameters of one shape at the same place of each layer; `*` stands for its number."""

    name: str
    shape: tuple[int, ...]
    count: int

    @property
    def num_parameters(self) -> int:
        return self.count * torch.Size(self.shape).numel()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """`num_active_parameters` are those that a token meets: all, but for a mixture of experts.
    `num_linear_rows` are the outputs of the linears, `num_multiplied` the weights by which a token
    is multiplied on its way, each counted as often as it is used. `attention` has an entry for each
    time that a token looks at others.
    """

    model_type: str
    task: Task
    parts: tuple[Part, ...]
    num_parameters: int
    num_active_parameters: int
    num_embedding_parameters: int
    num_linear_weights: int
    num_linear_rows: int
    num_multiplied: int
    attention: tuple[AttentionShape, ...]
    max_positions: int | None

    @property
    def num_non_embedding_parameters(self) -> int:
        """Without the vectors of tokens and positions, at the input and at the output."""
        return self.num_parameters - self.num_embedding_parameters

    def weight_bytes(self, precision: Precision) -> int:
        """What the weights take. In int8 each output of a linear has a scale, in nf4 each block of
        64 weights, in float32; what is not in a linear stays in bf16."""
        if precision == "fp32" or precision == "bf16":
            return BYTES[precision] * self.num_parameters
        rest = BYTES["bf16"] * (self.num_parameters - self.num_linear_weights)
        if precision == "int8":
            return rest + self.num_linear_weights + 4 * self.num_linear_rows
        return rest + self.num_linear_weights // 2 + 4 * (self.num_linear_weights // NF4_BLOCK)

    def kv_bytes_per_token(self, dtype: CacheDtype) -> int:
        """What the cache grows by with each token, in all layers: 0 for an encoder. (What an
        encoder-decoder keeps of its source comes once, and is not in it.)"""
        cached = (shape for shape in self.attention if shape.is_cached)
        return BYTES[dtype] * sum(2 * shape.num_kv_heads * shape.head_dim for shape in cached)

    def linear_flops_per_token(self) -> int:
        """A multiplication and an addition for each weight."""
        return 2 * self.num_multiplied

    def attention_flops_per_token(self, context: int) -> int:
        """Scores and weighted sum, for a token that sees `context` tokens (itself included)."""
        return sum(
            4 * shape.num_heads * shape.head_dim * min(context, shape.reach or context)
            for shape in self.attention
        )

    def flops_per_token(self, context: int) -> int:
        """Of a forward pass. In an encoder-decoder: of one token of the source through the encoder
        and one of the target through the decoder."""
        return self.linear_flops_per_token() + self.attention_flops_per_token(context)


def describe_config(raw: Mapping[str, Any], task: Task | None = None) -> ModelDescription:
    """The network that the content of a `config.json` asks for, with the head of `task` (default:
    the one it names). Raises ModelError for a config that is refused or of an unknown kind."""
    task = task or task_in(raw, family_of(raw.get("model_type")))
    with Unallocated():
        model = build_model(raw, task)
    return describe(model, task)


def describe(model: Model, task: Task) -> ModelDescription:
    body = next(module for module in model.modules() if isinstance(module, Body))
    idle = sum(_idle(mixture) for mixture in _of_type(model, MixtureOfExperts))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelDescription(
        model_type=model.config.model_type,
        task=task,
        parts=tuple(_parts(model)),
        num_parameters=num_parameters,
        num_active_parameters=num_parameters - idle,
        num_embedding_parameters=_num_embedding_parameters(model, body),
        num_linear_weights=_num_linear_weights(model),
        num_linear_rows=sum(linear.out_features for linear in _of_type(model, nn.Linear)),
        num_multiplied=_num_linear_weights(model) - idle + _used_again(model, body, task),
        attention=tuple(body.attention_shapes()),
        max_positions=getattr(model.config, "max_position_embeddings", None),
    )


def _of_type(model: nn.Module, kind: type[M]) -> Iterator[M]:
    return (module for module in model.modules() if isinstance(module, kind))


def _parts(model: Model) -> Iterable[Part]:
    """The parameters in order, those of all layers as one."""
    counts = Counter(
        (re.sub(r"\.\d+\.", ".*.", name).removeprefix("body."), tuple(parameter.shape))
        for name, parameter in model.named_parameters()
    )
    return (Part(name=name, shape=shape, count=count) for (name, shape), count in counts.items())


def _idle(mixture: MixtureOfExperts) -> int:
    """How many parameters of a mixture a token does not meet."""
    total = sum(parameter.numel() for parameter in mixture.experts.parameters())
    return total - total * mixture.top_k // len(mixture.experts)


def _num_embedding_parameters(model: Model, body: Body) -> int:
    """Tables of vectors, and linears that score each token of the vocabulary."""
    tables = sum(table.weight.numel() for table in _of_type(model, nn.Embedding))
    return tables + sum(linear.weight.numel() for linear in _output_linears(model, body))


def _output_linears(model: Model, body: Body) -> list[nn.Linear]:
    """Those of the head that are as wide as the vocabulary."""
    vocab_size, in_body = model.config.vocab_size, set(body.modules())
    linears = (linear for linear in _of_type(model, nn.Linear) if linear not in in_body)
    return [linear for linear in linears if linear.out_features == vocab_size]


def _used_again(model: Model, body: Body, task: Task) -> int:
    """Weights that multiply a token though they belong to no linear, or once more than they are
    kept: the embedding as the output, and layers that are shared."""
    is_tied = task in LM_TASKS and not _output_linears(model, body)
    output = body.embedding.weight.numel() if is_tied else 0
    passes = body.shared_passes()
    met, kept = (sum(map(_num_linear_weights, layers)) for layers in (passes, set(passes)))
    return output + met - kept


def _num_linear_weights(module: nn.Module) -> int:
    return sum(linear.weight.numel() for linear in _of_type(module, nn.Linear))
