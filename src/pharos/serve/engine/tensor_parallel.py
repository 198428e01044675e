"""A model whose layers are shared among processes, each with some of the heads and some of the
feed-forward's inner width (Shoeybi et al. 2019, arXiv:1909.08053).

    split_model(model, Share(rank, size))      # after init_process_group, on every rank
    kv = PagedKV(own_shapes(model, size), ...)

The first matrix of a pair keeps some of its rows, the second the columns that belong to them, and
two sums a layer put the parts together: everything between the layers is the same on every rank, to
the bit. Where there are fewer key-value heads than ranks, several ranks keep the same one. A head
of the vocabulary's size is split too, a tied one as well; the embedding is not.

No gradients: this is not how `pharos.train` does it. What is kept are plain linears, so that other
number formats can be swapped in afterwards.

Shapes: D hidden width, H query heads, G key-value heads, K head width, R query heads of a group,
O outputs of a linear.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pharos.models.falcon import FalconAttention
from pharos.models.family import AttentionShape
from pharos.models.gpt2 import GPT2Attention
from pharos.models.heads import CausalLM
from pharos.models.llama import LlamaAttention
from pharos.ops.experts import MixtureOfExperts
from pharos.ops.feed_forward import FeedForward, GatedFeedForward


@dataclass(frozen=True, slots=True)
class Share:
    """What is this process's: part number `rank` of `size`."""

    rank: int
    size: int

    def of(self, count: int) -> range:
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def of_groups(self, count: int) -> range:
        """Of key-value heads: where there are too few, the one that the rank's queries need."""
        if count >= self.size:
            return self.of(count)
        one = self.rank * count // self.size
        return range(one, one + 1)


WHOLE = Share(0, 1)


def split_model(model: CausalLM, share: Share) -> None:
    """Keep a share of a decoder, in place. Raises ValueError for one that cannot be shared so."""
    if share.size == 1:
        return
    _check(model, share.size)
    for block in model.body.blocks:  # type: ignore[union-attr]
        part: Any = block
        _split_attention(part.attention, share)
        part.mlp = _split_feed_forward(part.mlp, share)
    if model.config.vocab_size % share.size == 0:
        whole = model.body.embedding if model.lm_head is None else model.lm_head
        model.lm_head = GatheredLinear(whole.weight, share)  # type: ignore[assignment]


def own_shapes(model: CausalLM, size: int) -> list[AttentionShape]:
    """The attention of one rank of `size`."""
    return [
        shape._replace(
            num_heads=shape.num_heads // size, num_kv_heads=max(shape.num_kv_heads // size, 1)
        )
        for shape in model.body.attention_shapes()
    ]


class SummedLinear(nn.Module):
    """The columns of a linear that belong to this rank's inputs; the products are added up."""

    def __init__(self, whole: nn.Linear, columns: Tensor) -> None:
        super().__init__()
        self.part, self.bias = _some_inputs(whole, columns), whole.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x)
        dist.all_reduce(y)
        return y if self.bias is None else y + self.bias


class SummedExperts(nn.Module):
    """A mixture of experts of which this rank has a part of each: one sum for all of them."""

    def __init__(self, part: MixtureOfExperts) -> None:
        super().__init__()
        self.part = part

    def forward(self, x_BTD: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
        y_BTD: Tensor = self.part(x_BTD, router_logits)
        dist.all_reduce(y_BTD)
        return y_BTD


class GatheredLinear(nn.Module):
    """Some of the outputs of a linear, and then those of all ranks."""

    def __init__(self, weight_OD: Tensor, share: Share) -> None:
        super().__init__()
        self.part = _linear(weight_OD[_numbers(share.of(len(weight_OD)))])
        self.size = share.size

    def forward(self, x: Tensor) -> Tensor:
        own: Tensor = self.part(x)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=-1)


def _check(model: CausalLM, size: int) -> None:
    for shape in model.body.attention_shapes():
        heads, groups = shape.num_heads, shape.num_kv_heads
        if heads % size or (groups % size and size % groups):
            raise ValueError(
                f"tensor parallelism of {size} over {heads} heads with {groups} for keys: each "
                "rank must have as many; choose a divisor of both"
            )
    config: Any = model.config
    inner = config.intermediate_size
    if inner % size:
        raise ValueError(
            f"tensor parallelism of {size} over a feed-forward of width {inner}: choose a divisor"
        )
    if getattr(config, "alibi", False):
        raise ValueError(
            "tensor parallelism is not built for ALiBi, whose slopes are counted over all heads; "
            "run this model in one process"
        )


def _split_attention(attention: nn.Module, share: Share) -> None:
    match attention:
        case LlamaAttention():
            _split_llama(attention, share)
        case GPT2Attention():
            _split_gpt2(attention, share)
        case FalconAttention():
            _split_falcon(attention, share)
        case _:
            raise ValueError(
                f"tensor parallelism is not built for {type(attention).__name__}; run this model "
                "in one process"
            )


def _split_llama(attention: LlamaAttention, share: Share) -> None:
    width = attention.head_dim
    num_heads = attention.query.out_features // width
    num_groups = attention.key.out_features // width
    queries = _numbers(share.of(num_heads), width)
    keys = _numbers(share.of_groups(num_groups), width)
    attention.query = _some_outputs(attention.query, queries)
    attention.key = _some_outputs(attention.key, keys)
    attention.value = _some_outputs(attention.value, keys)
    attention.out = SummedLinear(attention.out, queries)  # type: ignore[assignment]


def _split_gpt2(attention: GPT2Attention, share: Share) -> None:
    heads = attention.num_heads
    own, width = share.of(heads), attention.out.in_features // heads
    rows_3HK = torch.arange(attention.qkv.out_features).view(3, heads, width)
    attention.qkv = _some_outputs(attention.qkv, rows_3HK[:, own.start : own.stop].flatten())
    attention.out = SummedLinear(attention.out, _numbers(own, width))  # type: ignore[assignment]
    attention.num_heads = len(own)


def _split_falcon(attention: FalconAttention, share: Share) -> None:
    """A group is its queries, then a key and a value. A single group is shared by all ranks."""
    groups, width = attention.num_groups, attention.head_dim
    num_heads = attention.out.in_features // width
    heads, own = share.of(num_heads), share.of_groups(groups)
    rows_GXK = torch.arange(attention.qkv.out_features).view(groups, -1, width)
    queries_HK = rows_GXK[:, :-2].reshape(num_heads, width)[heads.start : heads.stop]
    queries_GRK = queries_HK.view(len(own), -1, width)
    rows_GXK = torch.cat((queries_GRK, rows_GXK[own.start : own.stop, -2:]), dim=1)
    attention.qkv = _some_outputs(attention.qkv, rows_GXK.flatten())
    attention.out = SummedLinear(attention.out, _numbers(heads, width))  # type: ignore[assignment]
    attention.num_groups = len(own)


def _split_feed_forward(mlp: nn.Module, share: Share) -> nn.Module:
    match mlp:
        case MixtureOfExperts():
            for expert in mlp.experts:
                assert isinstance(expert, GatedFeedForward)
                expert.down = _some_inputs(expert.down, _split_inner(expert, share))
            return SummedExperts(mlp)
        case FeedForward() | GatedFeedForward():
            own = _split_inner(mlp, share)
            mlp.down = SummedLinear(mlp.down, own)  # type: ignore[assignment]
            return mlp
        case _:
            raise ValueError(
                f"tensor parallelism is not built for {type(mlp).__name__}; run this model in one "
                "process"
            )


def _split_inner(mlp: FeedForward | GatedFeedForward, share: Share) -> Tensor:
    """Keeps this rank's part of the inner width; which it is."""
    own = _numbers(share.of(mlp.up.out_features))
    mlp.up = _some_outputs(mlp.up, own)
    if isinstance(mlp, GatedFeedForward):
        mlp.gate = _some_outputs(mlp.gate, own)
    return own


def _numbers(parts: range, width: int = 1) -> Tensor:
    """Those of the rows or columns that these parts have, `width` each."""
    return torch.arange(parts.start * width, parts.stop * width)


def _some_outputs(whole: nn.Linear, rows: Tensor) -> nn.Linear:
    return _linear(whole.weight[rows], None if whole.bias is None else whole.bias[rows])


def _some_inputs(whole: nn.Linear, columns: Tensor) -> nn.Linear:
    return _linear(whole.weight[:, columns])


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
