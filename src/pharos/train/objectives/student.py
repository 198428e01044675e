"""A smaller model that begins as every other layer of a larger one (DistilBERT; Sanh et al. 2019,
arXiv:1910.01108). Everything that is not a layer (embeddings, head) is the teacher's too.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from pharos.core.errors import TrainingError
from pharos.models.family import Body, Model
from pharos.models.load import family_of
from pharos.models.placeholders import Uninitialized

PER_LAYER = ("windows", "attention_window")
"""Settings that have an entry for each layer."""


def student_of(teacher: Model, layers: int, decoder_layers: int | None = None) -> Model:
    """A new model of the teacher's kind with `layers` of its layers, evenly spaced from the first
    to the last, ready to train. Of an encoder-decoder both towers are made smaller; the decoder
    keeps `decoder_layers` (default: `layers`).

    Raises TrainingError for more layers than the teacher has.
    """
    config = teacher.config
    kept = {"num_hidden_layers": spaced(config.num_hidden_layers, layers)}
    if hasattr(config, "num_decoder_layers"):
        of_decoder = layers if decoder_layers is None else decoder_layers
        kept["num_decoder_layers"] = spaced(config.num_decoder_layers, of_decoder)
    elif decoder_layers is not None:
        raise TrainingError(
            f"decoder_layers is {decoder_layers}, and a {config.model_type} is no encoder-decoder; "
            "leave it out"
        )
    student = _build(teacher, _smaller(config, kept))
    _copy(teacher, student, kept)
    return student


def spaced(count: int, chosen: int) -> list[int]:
    """`chosen` of so many layers, the first and the last among them: of twelve, six are 0, 2, 4, 7,
    9, 11."""
    if not 1 <= chosen <= count:
        raise TrainingError(
            f"a student of {chosen} layers: its teacher has {count}, choose 1 to {count}"
        )
    if chosen == 1:
        return [0]
    return [round(i * (count - 1) / (chosen - 1)) for i in range(chosen)]


def _smaller(config: Any, kept: dict[str, list[int]]) -> Any:
    changes: dict[str, Any] = {name: len(layers) for name, layers in kept.items()}
    for name in {field.name for field in fields(config)} & set(PER_LAYER):
        entries: Sequence[Any] = getattr(config, name)
        changes[name] = tuple(entries[i] for i in kept["num_hidden_layers"])
    return replace(config, **changes)


def _build(teacher: Model, config: Any) -> Model:
    with Uninitialized():
        body = family_of(config.model_type).body(config)
        head: Any = type(teacher)
        student: Model = body if isinstance(teacher, Body) else head(body)
    return student


def _copy(teacher: Model, student: Model, kept: dict[str, list[int]]) -> None:
    """Each tensor from where it stands in the teacher: layer i of a list is the i-th kept."""
    lists = {
        name: kept["num_decoder_layers" if "decoder" in name else "num_hidden_layers"]
        for name, module in student.named_modules()
        if isinstance(module, nn.ModuleList) and _is_shortened(teacher, name, module)
    }
    state = teacher.state_dict()
    student.load_state_dict({name: state[_origin(name, lists)] for name in student.state_dict()})


def _is_shortened(teacher: Model, name: str, module: nn.ModuleList) -> bool:
    whole = teacher.get_submodule(name)
    return isinstance(whole, nn.ModuleList) and len(whole) != len(module)


def _origin(name: str, lists: dict[str, list[int]]) -> str:
    for prefix, layers in lists.items():
        if name.startswith(f"{prefix}."):
            index, _, rest = name.removeprefix(f"{prefix}.").partition(".")
            return f"{prefix}.{layers[int(index)]}.{rest}"
    return name
