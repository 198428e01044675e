"""Weights from safetensors files into a module and back, with every mismatch named."""

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.core.json_files import read_object
from pharos.models.weight_map import Source, WeightMap

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARDS = f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors"
MAX_SHARD_BYTES = 5_000_000_000
MAX_CONFIG_BYTES = 4_000_000
MAX_INDEX_BYTES = 32_000_000


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal; reads at the speed of the disk and keeps no cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_sha256(path: Path, expected: str) -> None:
    """Raises ModelError unless the file is, byte for byte, the one expected."""
    found = sha256_of(path)
    if found != expected:
        raise ModelError(
            f"{path} is not the published file: its SHA-256 is {found}, expected {expected}; "
            "remove it and install the model again"
        )


def read_config(folder: Path) -> dict[str, object]:
    """The `config.json` of a model folder."""
    return read_object(folder / "config.json", max_bytes=MAX_CONFIG_BYTES)


def has_weights(folder: Path) -> bool:
    """Whether a folder has safetensors files, or an index of them."""
    return (folder / WEIGHTS_FILE).is_file() or (folder / INDEX_FILE).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that the index lists. Links are
    followed: the hub's cache is made of them."""
    if not has_weights(folder):
        raise ModelError(f"{folder} has no {WEIGHTS_FILE}; {_only_safetensors(folder)}")
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    files = [folder / name for name in sorted(_shard_names(folder / INDEX_FILE))]
    for path in files:
        if not path.is_file():
            raise ModelError(f"{path}, which {INDEX_FILE} lists, is missing, or no regular file")
    return files


def _only_safetensors(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        return "only safetensors weights are loaded"
    return (
        f"{pickles[0]} is a pickle, which can run any code when it is read, and is not loaded; "
        "take a revision of the model that has safetensors, or convert it where you trust it"
    )


def _shard_names(index: Path) -> set[str]:
    """The files that the index lists, none of which leads out of its folder."""
    weight_map = read_object(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no `weight_map` that gives each tensor its file")
    for name in weight_map.values():
        if not isinstance(name, str) or name in {"", ".."} or Path(name).name != name:
            shown = reprlib.repr(name)
            raise ModelError(f"{index} lists {shown}; a shard must be a file beside the index")
    return set(weight_map.values())


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder by its name in the file, on the CPU, memory-mapped."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            tensors = load_file(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
        if twice := tensors.keys() & weights.keys():
            raise ModelError(f"{path} holds {min(twice)}, which an earlier shard holds already")
        weights |= tensors
    return weights


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    weight_map: WeightMap,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Give `module` its parameters, and the buffers that are in the map, in `dtype` (default: as
    they are). `weight_map` says which tensors make up each.

    The parameters are replaced, not copied into: a tensor that is taken as it is stays in the file
    that it is mapped from. Raises ModelError naming all that is missing, left over, or of another
    shape.
    """
    problems = _missing(weights, weight_map) + _left_over(weights, weight_map)
    problems = problems or _misshapen(module, weights, weight_map)
    if problems:
        raise ModelError("the weights do not fit the model: " + _in_short(problems))
    for ours, source in weight_map.items():
        tensor = source.read([_converted(weights[name], dtype) for name in source.names])
        owner_name, _, leaf = ours.rpartition(".")
        owner = module.get_submodule(owner_name)
        is_buffer = leaf in dict(owner.named_buffers(recurse=False))
        setattr(owner, leaf, tensor if is_buffer else nn.Parameter(tensor, requires_grad=False))


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and dtype is not None else tensor


def save_weights(
    module: nn.Module,
    folder: Path,
    weight_map: WeightMap,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """The module's parameters under the checkpoint's names: one file, or shards with an index.

    The files take their names only once they are whole; those of an earlier save are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(module, weight_map, max_shard_bytes)
    names = [WEIGHTS_FILE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        tensors = {theirs: tensor for part in shard for theirs, tensor in _written(module, part)}
        save_file(tensors, folder / f"{name}.part", metadata={"format": "pt"})
    for name in names:
        part = folder / f"{name}.part"
        part.chmod((folder.stat().st_mode & 0o666) | 0o600)  # safetensors writes for the owner only
        part.replace(folder / name)
    if len(shards) > 1:
        _write_index(folder, module, dict(zip(names, shards, strict=True)))
    _remove_older_weights(folder, keep=set(names))


Part = tuple[str, Source]
"""A parameter's name and the tensors that it is written as."""


def _shards(module: nn.Module, weight_map: WeightMap, max_bytes: int) -> list[list[Part]]:
    """The parameters in order, as many per shard as fit."""
    shards: list[list[Part]] = [[]]
    room = max_bytes
    for ours, source in weight_map.items():
        size = _tensor(module, ours).nbytes
        if size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append((ours, source))
        room -= size
    return shards


def _tensor(module: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer."""
    owner, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), leaf)
    return tensor


def _written(module: nn.Module, part: Part) -> list[tuple[str, Tensor]]:
    ours, source = part
    tensors = source.write(_tensor(module, ours).detach().cpu())
    return [(name, tensor.contiguous()) for name, tensor in zip(source.names, tensors, strict=True)]


def _write_index(folder: Path, module: nn.Module, shards: Mapping[str, Sequence[Part]]) -> None:
    weight_map = {
        theirs: file
        for file, parts in shards.items()
        for _, source in parts
        for theirs in source.names
    }
    total = sum(_tensor(module, ours).nbytes for parts in shards.values() for ours, _ in parts)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _remove_older_weights(folder: Path, keep: set[str]) -> None:
    """Those of the names that a save gives; another file of weights is somebody's."""
    for path in [*folder.glob(WEIGHTS_FILE), *folder.glob(SHARDS)]:
        if path.name not in keep:
            path.unlink()
    if keep == {WEIGHTS_FILE}:
        (folder / INDEX_FILE).unlink(missing_ok=True)


def _missing(weights: Mapping[str, Tensor], weight_map: WeightMap) -> list[str]:
    return [f"{name} is missing" for name in sorted(_wanted(weight_map) - weights.keys())]


def _left_over(weights: Mapping[str, Tensor], weight_map: WeightMap) -> list[str]:
    return [f"{name} is unexpected" for name in sorted(weights.keys() - _wanted(weight_map))]


def _wanted(weight_map: WeightMap) -> set[str]:
    return {name for source in weight_map.values() for name in source.names}


def _misshapen(
    module: nn.Module, weights: Mapping[str, Tensor], weight_map: WeightMap
) -> list[str]:
    problems = []
    for ours, source in weight_map.items():
        tensor = _tensor(module, ours)
        wanted = source.shapes(tuple(tensor.shape))
        for name, shape in zip(source.names, wanted, strict=True):
            found, dtype = tuple(weights[name].shape), weights[name].dtype
            if found != shape:
                problems.append(f"{name} is {found}; the model has {shape}")
            elif tensor.is_floating_point() and not dtype.is_floating_point:
                shown = str(dtype).removeprefix("torch.")
                problems.append(f"{name} is {shown}; weights are floating point")
    return problems


def _in_short(problems: Sequence[str], most: int = 12) -> str:
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "; ".join([*problems[:most], *more])
