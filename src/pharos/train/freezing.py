"""Parts of a model that stay as they are while the rest is trained: `model.freeze` of a recipe.

They have the checkpoint's names, or endings of these, as PEFT's files have them: of a module
(`embed_tokens`), of one around it (`encoder.layer.0`), or of a single tensor.
"""

import difflib
from collections.abc import Collection, Iterator, Sequence

from pharos.adapt.sites import around, has_ending, head_copies, weight_map_of
from pharos.core.errors import TrainingError
from pharos.models.family import Model


def freeze(model: Model, names: Sequence[str]) -> None:
    """Raises TrainingError for a name that nothing has, for a part of what is one weight here, and
    if nothing is left to be trained."""
    weight_map = weight_map_of(model)
    tensors = [tensor for source in weight_map.values() for tensor in source.names]
    for name in names:
        if not any(is_within(tensor, name) for tensor in tensors):
            raise TrainingError(_unknown(name, tensors, head_copies(model)))
    for ours, source in weight_map.items():
        is_meant = {x: any(is_within(x, name) for name in names) for x in source.names}
        if any(is_meant.values()):
            _check_whole(is_meant)
            model.get_parameter(ours).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"model.freeze {list(names)} leaves nothing to train; freeze less")


def is_within(tensor: str, name: str) -> bool:
    """Whether a tensor, or a module that it is in, has this name, or one that ends so."""
    return any(has_ending(outer, name) for outer in around(tensor))


def _check_whole(is_meant: dict[str, bool]) -> None:
    """Query, key and value may be one weight here, which is frozen or not."""
    if not all(is_meant.values()):
        frozen = next(name for name, is_frozen in is_meant.items() if is_frozen)
        raise TrainingError(
            f"model.freeze names {frozen}, which is one weight here with all of "
            f"{', '.join(is_meant)}; name all of them, or none"
        )


def _unknown(name: str, tensors: Collection[str], copies: Collection[str]) -> str:
    if any(is_within(copy, name) for copy in copies):
        return (
            f"model.freeze names {name!r}, which is the embedding again and has no weight of its "
            "own; freeze the embedding, and both stay, or set model.untie_embeddings to true"
        )
    near = difflib.get_close_matches(name, sorted(set(_endings(tensors))), 1)
    modules = sorted({tensor.split(".")[-2] for tensor in tensors if "." in tensor})
    hint = f"did you mean {near[0]!r}?" if near else f"its modules end in {', '.join(modules)}"
    return f"model.freeze names {name!r}, and the model has no such part; {hint}"


def _endings(tensors: Collection[str]) -> Iterator[str]:
    """What could have been meant."""
    for tensor in tensors:
        for outer in around(tensor):
            parts = outer.split(".")
            yield from (".".join(parts[start:]) for start in range(len(parts)))
