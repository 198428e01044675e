"""Pipeline parallelism: each rank has some of the layers, and micro-batches flow through.

A stage is the model itself with parts taken out: the blocks of other stages are not there, instead
of the embedding stands what the stage before has sent, and the last norm and the head are with the
last stage. So a stage runs the body's own code, and the last one the objective's. Parameters keep
the names that they have in the whole model.

A tied head needs the embedding at both ends: the last stage has a copy of it, and their gradients
are added up.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from pharos.core.errors import TrainingError
from pharos.ops.masks import Causal, Documents
from pharos.train.activation_checkpoint import Checkpointing
from pharos.train.objective import Batch, Objective
from pharos.train.parallel.apply import parallelize, unwrapped
from pharos.train.parallel.experts import Excerpt
from pharos.train.parallel.mesh import ParallelConfig

if TYPE_CHECKING:  # imported where a pipeline is built: it brings in torch's compiler
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle


class Received(nn.Module):
    """Instead of an embedding: what the stage before has sent. `weight` is for a tied head."""

    def __init__(self, weight: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.states: Tensor | None = None

    def forward(self, ids_BT: Tensor) -> Tensor:
        assert self.states is not None
        return self.states


class Nothing(nn.Module):
    """Instead of the vectors of positions, which the first stage has added."""

    def forward(self, positions_BT: Tensor) -> Tensor:
        return torch.zeros((), device=positions_BT.device)


class Stage(nn.Module):
    """Stage `index` of `count`: from what the one before has sent, or a batch's ids, to hidden
    states, or, at the last one, to the weighted loss."""

    def __init__(
        self, model: nn.Module, objective: Objective, index: int, count: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.is_first, self.is_last = index == 0, index == count - 1
        self.model: Any = cut(model, index, count)
        self.objective, self.dtype = objective, dtype
        self.scales: Mapping[str, float] = {}
        self.sums: list[Mapping[str, Tensor]] = []

    def forward(self, received: Tensor, /, **batch: Tensor) -> Tensor:
        body = self.model.body
        if not self.is_first:
            body.embedding.states = received
        with self._autocast(received.device.type):
            if self.is_last:
                return self._loss(batch)
            states: Tensor = body(
                batch["ids"], positions_BT=batch.get("positions"), mask=_mask(batch)
            )
            return states.float()

    def _loss(self, batch: Batch) -> Tensor:
        sums = self.objective.losses(self.model, batch)
        self.sums.append({name: value.detach() for name, value in sums.items()})
        parts = [scale * sums[name] for name, scale in self.scales.items()]
        return torch.stack(parts).sum(dim=0, keepdim=True)

    def _autocast(self, device_type: str) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type, dtype=self.dtype)


def _mask(batch: Batch) -> Causal | Any:
    documents = batch.get("documents")
    return Causal() if documents is None else Causal() & Documents(documents)


def cut(model: Any, index: int, count: int) -> nn.Module:
    """The part of a causal language model that is stage `index` of `count`."""
    part: nn.Module = _shallow(model)
    body = _shallow(model.body)
    is_first, is_last = index == 0, index == count - 1
    per_stage = len(model.body.blocks) // count
    own = range(index * per_stage, (index + 1) * per_stage)
    part.body = body
    body.blocks = Excerpt({i: model.body.blocks[i] for i in own})
    if not is_first:
        is_tied = is_last and model.lm_head is None
        weight = model.body.embedding.weight
        body.embedding = Received(nn.Parameter(weight.detach().clone()) if is_tied else None)
        if hasattr(body, "position"):
            body.position = Nothing()
        if hasattr(body, "dropout"):
            body.dropout = nn.Identity()
    if not is_last:
        body.norm = nn.Identity()
        part.lm_head = None  # type: ignore[assignment]
    return part


def _shallow(module: Any) -> Any:
    """A module with the same parts, which may be replaced without touching the original."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin


class PipelineRunner(nn.Module):
    """A rank's stages, and the schedule by which micro-batches pass through them.

    It takes the place of the step's module where there is a pipeline: `step` does the forward and
    the backward passes of all micro-batches, and leaves gradients that are summed over the ranks
    with rows of their own. `dtype` is what the stages compute in (autocast); what is sent is
    float32.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: ParallelConfig,
        mesh: DeviceMesh,
        *,
        activation_checkpointing: Checkpointing = "none",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config, self.mesh = config, mesh["pipeline"]
        self.rank = self.mesh.get_local_rank()
        self.count = config.num_stages
        self.indices = list(range(self.rank, self.count, config.pipeline))
        stages = [Stage(model, objective, i, self.count, dtype) for i in self.indices]
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.parts = nn.ModuleList(
            parallelize(
                stage, stage.model, config, mesh, activation_checkpointing=activation_checkpointing
            )
            for stage in stages
        )
        is_tied = model.lm_head is None
        self.ends = ends_group(mesh) if is_tied else None
        self._schedules: dict[object, PipelineScheduleSingle | PipelineScheduleMulti]
        self._schedules = {}
        self._names: list[str] | None = None

    def step(
        self, micro_batches: Sequence[Batch], scales: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Gradients of Σ scale · sum over this rank's `micro_batches`, and the sums themselves, the
        same on all ranks of the pipeline. A term's scale is its weight by its global count."""
        sums = self._run(micro_batches, scales, with_backward=True)
        self._add_tied_gradients()
        return sums

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The sums alone."""
        return self._run(micro_batches, {}, with_backward=False)

    @property
    def tied(self) -> nn.Parameter | None:
        """The weight that the first and the last stage both have, where this rank has one of
        them."""
        if self.ends is None:
            return None
        last = 0 if self.rank == 0 else -1
        stage: Any = unwrapped(self.parts[last])
        weight: nn.Parameter = stage.model.body.embedding.weight
        return weight

    def _run(
        self, micro_batches: Sequence[Batch], scales: Mapping[str, float], *, with_backward: bool
    ) -> dict[str, Tensor]:
        stages = [unwrapped(part) for part in self.parts]
        for stage in stages:
            assert isinstance(stage, Stage)
            stage.scales = scales or dict.fromkeys(stage.objective.weights, 1.0)
            stage.sums = []
        batch = joined(micro_batches)
        schedule = self._schedule(batch["ids"], len(micro_batches), with_backward)
        run: Callable[..., object] = schedule.step if with_backward else schedule.eval
        inputs = (batch["ids"],) if self.indices[0] == 0 else ()
        target = batch["ids"] if self.indices[-1] == self.count - 1 else None
        run(*inputs, target=target, **batch)
        return self._shared_sums(stages[-1])

    def _schedule(
        self, ids: Tensor, num: int, with_backward: bool
    ) -> "PipelineScheduleSingle | PipelineScheduleMulti":
        from torch.distributed.pipelining import Schedule1F1B, ScheduleInterleaved1F1B

        key = (ids.shape, num, with_backward)
        if key not in self._schedules:
            rows, length = len(ids) // num, ids.shape[1]
            stages = [
                self._stage(part, index, ids.new_empty(rows, length))
                for part, index in zip(self.parts, self.indices, strict=True)
            ]
            if self.config.schedule == "1f1b":
                self._schedules[key] = Schedule1F1B(
                    stages[0], num, loss_fn=_already_a_loss, scale_grads=False
                )
            else:
                self._schedules[key] = ScheduleInterleaved1F1B(
                    list(stages), num, loss_fn=_already_a_loss, scale_grads=False
                )
        return self._schedules[key]

    def _stage(self, part: nn.Module, index: int, ids: Tensor) -> "PipelineStage":
        from torch.distributed.pipelining import PipelineStage

        states = torch.empty(
            *ids.shape, self.width, device=ids.device, requires_grad=torch.is_grad_enabled()
        )
        loss = torch.empty(1, device=ids.device, requires_grad=torch.is_grad_enabled())
        return PipelineStage(
            part,
            index,
            self.count,
            ids.device,
            input_args=ids if index == 0 else states,
            output_args=loss if index == self.count - 1 else states,
            group=self.mesh.get_group(),
        )

    def _shared_sums(self, last: nn.Module) -> dict[str, Tensor]:
        """The sums over the micro-batches, from the last stage to all."""
        group, source = self.mesh.get_group(), self.config.pipeline - 1
        own: Sequence[Mapping[str, Tensor]] = last.sums  # type: ignore[assignment]
        if self._names is None:
            names = [list(own[0]) if own else None]
            dist.broadcast_object_list(names, group=group, group_src=source)
            self._names = names[0]
        assert self._names is not None
        device = next(self.parameters()).device
        totals = torch.zeros(len(self._names), device=device)
        if own:
            totals = torch.stack([torch.stack([s[n] for s in own]).sum() for n in self._names])
        dist.broadcast(totals, group=group, group_src=source)
        return dict(zip(self._names, totals, strict=True))

    def _add_tied_gradients(self) -> None:
        if (weight := self.tied) is not None:
            assert weight.grad is not None
            gradient = weight.grad
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            dist.all_reduce(local, group=self.ends)


def ends_group(mesh: DeviceMesh) -> dist.ProcessGroup | None:
    """The first and the last rank of this rank's pipeline, if it is one of them. Every rank of the
    world must call it."""
    pipelines = mesh.mesh.flatten(1).T.tolist()
    ends = [[ranks[0], ranks[-1]] for ranks in pipelines]
    own: dist.ProcessGroup | None
    own, _ = dist.new_subgroups_by_enumeration(ends)  # type: ignore[no-untyped-call]
    return own


def joined(micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Micro-batches one below the other: the schedule takes them apart again."""
    shapes = {tuple(batch["ids"].shape) for batch in micro_batches}
    if len(shapes) > 1:
        shown = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise TrainingError(
            f"parallel.pipeline: the micro-batches of a step have the shapes {shown}; stages pass "
            "on one shape only, so pad or pack the rows to one length"
        )
    names = {name: None for batch in micro_batches for name in batch}
    return {name: torch.cat([_entry(batch, name) for batch in micro_batches]) for name in names}


def _entry(batch: Batch, name: str) -> Tensor:
    """A batch whose rows are one document each does not say so: there all are document 0."""
    assert name in batch or name == "documents", f"some micro-batches have {name}, others do not"
    return batch[name] if name in batch else torch.zeros_like(batch["ids"])


def _already_a_loss(loss: Tensor, _target: Tensor) -> Tensor:
    return loss.sum()
