"""Tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053): each rank has some of the heads and
some of the feed-forward's inner width, and two sums a layer put their results together.

A plan says it by name: the first matrix of a pair is split by its columns (`ColwiseParallel`), the
second by its rows (`RowwiseParallel`). The parts are DTensors, so a checkpoint knows what they are
parts of. A head of its own, and the embedding with it, are split by the vocabulary; a tied one
stays whole.

GPT-2's query, key and value are one matrix, of which no stretch of rows is "some of the heads".
There each rank keeps all of it and multiplies with the rows of its own heads: the computing is
split, that matrix's memory is not.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.functional import linear, rms_norm

from pharos.ops.norms import RMSNorm
from pharos.train.parallel.collectives import summed_gradient
from pharos.train.parallel.mesh import EXPERT_PARALLEL, GPT2, LLAMAS


class OwnRows(nn.Linear):
    """The part of a fused linear that is for this rank's heads: of each of its `num_parts`
    matrices, the rows in the rank's turn."""

    def __init__(self, whole: nn.Linear, num_parts: int, mesh: DeviceMesh) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.weight, self.bias = whole.weight, whole.bias
        self.num_parts = num_parts
        self.group, self.rank, self.size = mesh.get_group(), mesh.get_local_rank(), mesh.size()

    def forward(self, x_BTD: Tensor) -> Tensor:
        bias = None if self.bias is None else self._own(self.bias)
        return linear(summed_gradient(x_BTD, self.group), self._own(self.weight), bias)

    def _own(self, whole: Tensor) -> Tensor:
        shape = (self.num_parts, self.size, -1, *whole.shape[1:])
        return summed_gradient(whole, self.group).view(shape)[:, self.rank].flatten(0, 1)


class OwnHeadsNorm(nn.Module):
    """The norm of each head where a rank has some of the heads: its gain's gradient is summed."""

    def __init__(self, whole: RMSNorm, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.eps, self.group = whole.weight, whole.eps, mesh.get_group()

    def forward(self, x: Tensor) -> Tensor:
        weight = summed_gradient(self.weight, self.group)
        return rms_norm(x, weight.shape, weight, self.eps)


class FusedHeads(ParallelStyle):
    """For GPT-2's attention."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        attention: Any = module
        attention.num_heads //= mesh.size()
        attention.qkv = OwnRows(attention.qkv, 3, mesh)
        return module


class HeadNorms(ParallelStyle):
    """For Qwen 3's attention; the others have no such norms."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        attention: Any = module
        for name in ("query_norm", "key_norm"):
            if isinstance(norm := getattr(attention, name), RMSNorm):
                setattr(attention, name, OwnHeadsNorm(norm, mesh))
        return module


Plan = Mapping[str, ParallelStyle]


def _gpt2() -> Plan:
    return {
        "attention": FusedHeads(),
        "attention.out": RowwiseParallel(),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(),
    }


def _llama_attention() -> Plan:
    columns = ("attention.query", "attention.key", "attention.value")
    plan = {name: ColwiseParallel() for name in columns}
    return {"attention": HeadNorms(), **plan, "attention.out": RowwiseParallel()}


def _gated(name: str) -> Plan:
    columns = {f"{name}.{part}": ColwiseParallel() for part in ("gate", "up")}
    return {**columns, f"{name}.down": RowwiseParallel()}


def plan_of(model_type: str) -> Plan:
    """For a block of such a model, what becomes of its parts, by name."""
    if model_type in GPT2:
        return _gpt2()
    if model_type in LLAMAS:
        return {**_llama_attention(), **_gated("mlp")}
    assert model_type in EXPERT_PARALLEL, model_type
    return {**_llama_attention(), **_gated("mlp.experts.*")}


def apply_tensor_parallel(model: Any, mesh: DeviceMesh) -> None:
    """Split the blocks of a decoder, in place, and an untied head with its embedding."""
    for block in model.body.blocks:
        parallelize_module(block, mesh, dict(plan_of(model.config.model_type)))
    if model.config.vocab_size % mesh.size() or model.config.tie_word_embeddings:
        return
    if isinstance(model.body.embedding, nn.Embedding):
        parallelize_module(model.body.embedding, mesh, RowwiseParallel(input_layouts=Replicate()))
    if getattr(model, "lm_head", None) is not None:
        parallelize_module(model.lm_head, mesh, ColwiseParallel(output_layouts=Replicate()))
