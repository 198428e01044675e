"""Weights from safetensors files into a module, with every mismatch named."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pharos.core.errors import ModelError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


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
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as a model's configuration: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}; it must be a JSON object")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that the index lists."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise ModelError(f"{folder} has no {WEIGHTS_FILE}; only safetensors weights are loaded")
    return [folder / name for name in sorted(_shard_names(index))]


def _shard_names(index: Path) -> set[str]:
    """The files that the index lists, none of which leads out of its folder."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{index} cannot be read as an index of weights: {error}") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no `weight_map` that gives each tensor its file")
    for name in weight_map.values():
        if not isinstance(name, str) or name in {"", ".."} or Path(name).name != name:
            raise ModelError(f"{index} lists {name!r}; a shard must be a file beside the index")
    return set(weight_map.values())


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder by its name in the file, on the CPU, memory-mapped."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            weights |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    return weights


class Uninitialized(TorchFunctionMode):
    """Modules made within this context keep their parameters as the memory came: to be loaded next.

    The `meta` device would do too, but its first use imports some 800 modules, which takes seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    names: Mapping[str, Sequence[str]],
    *,
    ignore: Iterable[str] = (),
) -> None:
    """Give `module` its parameters. `names` says which tensors, joined along their first dimension,
    make up each; tensors whose names start with one of `ignore` may be left over.

    The parameters are replaced, not copied into. Raises ModelError naming all that is missing, left
    over, or of another shape.
    """
    problems = _missing(weights, names) + _left_over(weights, names, tuple(ignore))
    problems = problems or _misshapen(module, weights, names)
    if problems:
        raise ModelError("the weights do not fit the model: " + "; ".join(problems))
    state = {ours: _joined([weights[name] for name in theirs]) for ours, theirs in names.items()}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)


def _missing(weights: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> list[str]:
    wanted = {name for theirs in names.values() for name in theirs}
    return [f"{name} is missing" for name in sorted(wanted - weights.keys())]


def _left_over(
    weights: Mapping[str, Tensor], names: Mapping[str, Sequence[str]], ignore: tuple[str, ...]
) -> list[str]:
    wanted = {name for theirs in names.values() for name in theirs}
    extra = sorted(name for name in weights.keys() - wanted if not name.startswith(ignore))
    return [f"{name} is unexpected" for name in extra]


def _misshapen(
    module: nn.Module, weights: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]
) -> list[str]:
    problems = []
    for ours, parameter in module.state_dict().items():
        shapes = [tuple(weights[name].shape) for name in names[ours]]
        rest = {shape[1:] for shape in shapes}
        rows = sum(shape[0] for shape in shapes if shape)
        if rest != {tuple(parameter.shape[1:])} or rows != parameter.shape[0]:
            found = " + ".join(f"{n} {s}" for n, s in zip(names[ours], shapes, strict=True))
            problems.append(f"{found}: the model has {tuple(parameter.shape)}")
    return problems


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
