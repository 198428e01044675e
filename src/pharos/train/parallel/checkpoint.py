"""Checkpoints of which each rank writes what it has, and which load on any other mesh.

Every tensor is written under its name in the whole model, with its place in the whole: so four
ranks may write what two read, or one. A folder is written beside, and renamed when all ranks are
done: it is whole or not there.

    save_sharded(folder, module, optimizer)
    load_sharded(folder, module, optimizer)     the same, or any other, mesh
    load_whole(folder, model)                   one process, no mesh: save_model writes the rest

The format is that of `torch.distributed.checkpoint`. Its index is a pickle, which can run any code
when it is read: load what you have written yourself, and publish what `save_model` writes.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from pharos.core.errors import TrainingError
from pharos.train.checkpoint import PARTIAL, WRITE_ERRORS, flush
from pharos.train.parallel.apply import unwrapped
from pharos.train.parallel.pipeline import PipelineRunner

MODEL, OPTIMIZER = "model.", "optimizer."


def save_sharded(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    beside: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write `module` (as `parallelize` made it, or a pipeline) and its optimizer's state. `beside`
    is called on every rank with the folder, to add files of its own before it counts as complete.

    Every rank must call it. Raises TrainingError on all of them if one cannot write; what was at
    `folder` before is then still there.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    tensors: dict[str, Tensor] = {}
    _together(folder, lambda: tensors.update(_tensors(module, optimizer)))
    _together(folder, lambda: _make_anew(partial) if _is_first() else None)
    _together(folder, lambda: save(dict(tensors), checkpoint_id=partial))
    _together(folder, lambda: beside(partial))
    _together(folder, lambda: _put_in_place(partial, folder) if _is_first() else None)


def load_sharded(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Give `module`, spread over whatever mesh, and its optimizer what `save_sharded` wrote. Every
    rank must call it."""
    saved = _read_index(folder)
    parameters = named_parameters(module)
    tensors: dict[str, Any] = {name: p.detach() for name, p in parameters.items()}
    if missing := tensors.keys() - saved.keys():
        raise TrainingError(
            f"{folder} lacks {min(missing)} and {len(missing) - 1} more: it is a checkpoint of "
            "another model; resume with the recipe.yaml beside its folder"
        )
    states = {} if optimizer is None else _states_to_fill(parameters, saved, optimizer)
    tensors |= {
        f"{OPTIMIZER}{name}.{key}": value
        for name, state in states.items()
        for key, value in state.items()
    }
    load(tensors, checkpoint_id=folder)
    if optimizer is not None:
        is_fused = any(group.get("fused") for group in optimizer.param_groups)
        for name, state in states.items():
            own = parameters[name]
            optimizer.state[own] = {
                key: _restored(value, own, is_fused=is_fused) for key, value in state.items()
            }


def load_whole(folder: Path, model: nn.Module) -> None:
    """The weights alone, into a model that is on one device: gathers them from all ranks' files,
    in this process and no other."""
    saved = _read_index(folder)
    tensors = {MODEL + name: p.detach() for name, p in model.named_parameters()}
    if missing := tensors.keys() - saved.keys():
        raise TrainingError(f"{folder} lacks {min(missing)}: it is a checkpoint of another model")
    load(dict(tensors), checkpoint_id=folder, no_dist=True)


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that this rank has, by their names in the whole step: `model.body.…`."""
    parts = module.parts if isinstance(module, PipelineRunner) else [module]
    found: dict[str, nn.Parameter] = {}
    for part in parts:
        found |= dict(unwrapped(part).named_parameters())
    return found


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """What this rank has of the weights and of the optimizer's state, by name."""
    parameters = named_parameters(module)
    tensors: dict[str, Tensor] = {name: p.detach() for name, p in parameters.items()}
    if optimizer is not None:
        for name, parameter in parameters.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{OPTIMIZER}{name}.{key}"] = _as_tensor(name, key, value, parameter)
    return tensors


def _as_tensor(name: str, key: str, value: object, parameter: Tensor) -> Tensor:
    """A state must be one number, or lie as its parameter does: else nobody knows which part of the
    whole it is."""
    if isinstance(value, int):
        return torch.tensor(value)
    is_whole = not isinstance(parameter, DTensor)
    if isinstance(value, Tensor) and (
        value.numel() == 1 or is_whole or _is_alike(value, parameter)
    ):
        return value
    raise _cannot_be_placed(key, name)


def _cannot_be_placed(key: str, name: str) -> TrainingError:
    return TrainingError(
        f"the optimizer keeps {key} of {name} in a form of its own, which cannot be placed in the "
        "whole; choose the optimizer adamw or muon with parallel.shard, tensor or expert"
    )


def _is_alike(value: Tensor, parameter: Tensor) -> bool:
    if not isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return False
    if value.shape != parameter.shape:
        return False
    same: bool = value.placements == parameter.placements
    return same and value.device_mesh == parameter.device_mesh


def _states_to_fill(
    parameters: Mapping[str, nn.Parameter],
    saved: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
) -> dict[str, dict[str, Tensor]]:
    """Memory for the optimizer's state, laid out as the parameters are here. An optimizer that has
    not taken a step has none of its own yet."""
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    states: dict[str, dict[str, Tensor]] = {}
    for name, key, metadata in _saved_states(saved):
        parameter = parameters.get(name)
        if parameter is None or parameter not in trained:
            continue
        value = _room_for(metadata, parameter)
        is_own = value.numel() > 1 and value.shape != parameter.shape
        if is_own and isinstance(parameter, DTensor):
            raise _cannot_be_placed(key, name)
        states.setdefault(name, {})[key] = value
    return states


def _room_for(metadata: TensorStorageMetadata, parameter: Tensor) -> Tensor:
    dtype = metadata.properties.dtype
    if metadata.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    return torch.zeros(metadata.size, dtype=dtype)


def _restored(value: Tensor, parameter: Tensor, *, is_fused: bool) -> Tensor | int:
    """As optimizers keep it: numbers of steps are Python's, or tensors where the kernel is."""
    if value.numel() == 1 and parameter.numel() > 1:
        if not value.is_floating_point():
            return int(value)
        return value.to(parameter.device) if is_fused else value
    return value


def _saved_states(
    saved: Mapping[str, Any],
) -> Iterator[tuple[str, str, TensorStorageMetadata]]:
    for name, metadata in saved.items():
        if name.startswith(OPTIMIZER) and isinstance(metadata, TensorStorageMetadata):
            parameter, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
            yield parameter, key, metadata


def _read_index(folder: Path) -> Mapping[str, Any]:
    try:
        index = FileSystemReader(folder).read_metadata()
    except FileNotFoundError:
        raise TrainingError(f"{folder} holds no sharded checkpoint: it has no .metadata") from None
    saved: Mapping[str, Any] = index.state_dict_metadata
    return saved


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Have it on the disk and rename it, over an older one of the same name if there is one."""
    flush(partial)
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _together(folder: Path, act: Callable[[], object]) -> None:
    """Do it on every rank; if one cannot, none goes on. So what may fail on one rank alone must not
    be what the others wait for: that is an act of its own."""
    problem: str | None = None
    rank = dist.get_rank() if dist.is_initialized() else 0
    try:
        act()
    except TrainingError as error:
        problem = str(error)
    except (*WRITE_ERRORS, CheckpointException) as error:
        problem = (
            f"{folder}: the checkpoint could not be written on rank {rank} ({error}); free space "
            "there or name another output, then resume from the checkpoint before it"
        )
    problems = [problem]
    if dist.is_initialized():
        problems = [None] * dist.get_world_size()
        dist.all_gather_object(problems, problem)
    if failed := [text for text in problems if text is not None]:
        raise TrainingError(failed[0])
