"""The model that a saved adapter is for, under the head that it was trained under.

    model, fresh = load_base("all-MiniLM-L6-v2", folder)
    adapters = Adapters(model)
    load_adapter(adapters, folder)
    check_head(adapters, fresh, folder)

An adapter of a classifier holds the head whole, which its base does not have. What head that is,
and what its classes are called, our own files say (`pharos.adapt.weights_file`). PEFT's say what it
is for; how many classes there are is then as many as the saved head has rows.
"""

from collections.abc import Collection
from pathlib import Path

from pharos.adapt.adapters import DEFAULT, Adapters
from pharos.adapt.layers import SavedCopy
from pharos.adapt.peft_config import TASK_TYPES, read_adapter_config
from pharos.adapt.peft_files import tensors_of
from pharos.adapt.sites import weight_map_of
from pharos.adapt.weights_file import read_trained_on
from pharos.core.errors import ModelError
from pharos.models.config import default_labels
from pharos.models.family import Model, Task
from pharos.models.load import load_for_task, load_model
from pharos.models.resolve import find_model

CLASSIFYING: tuple[Task, ...] = ("sequence_classification", "token_classification")


def load_base(name: str | Path, adapter: Path) -> tuple[Model, frozenset[str]]:
    """And which parameters of its head the base does not have: `check_head` sees to it that the
    adapter does. Raises ModelError for an architecture that has no such head."""
    find_model(str(name))  # one that is missing says so itself
    trained_on = read_trained_on(adapter)
    task = trained_on.task or _task_of_peft(adapter)
    if task is None:
        return load_model(name), frozenset()
    try:
        model, fresh = load_for_task(name, task, labels=trained_on.labels)
    except ModelError as error:
        raise ModelError(f"{adapter} does not fit this model: {error}") from error
    is_counted = trained_on.task is None and task in CLASSIFYING
    if is_counted and (count := _num_labels(model, adapter)):
        return load_for_task(name, task, labels=default_labels(count))
    return model, fresh


def check_head(adapters: Adapters, fresh: Collection[str], folder: Path) -> None:
    """Raises ModelError where the adapter of a folder does not hold a `fresh` parameter."""
    saved = saved_names(adapters)
    for ours in sorted(fresh):
        for name in adapters.weight_map[ours].names:
            if name not in saved:
                raise ModelError(
                    f"{folder} lacks {name}, a part of its head; train it without "
                    "modules_to_save, which saves the whole head"
                )


def saved_names(adapters: Adapters, name: str = DEFAULT) -> set[str]:
    """The tensors that an adapter holds whole."""
    copies = [part for part in adapters.parts(name) if isinstance(part, SavedCopy)]
    return {key for copy in copies for key in copy.tensors()}


def _task_of_peft(adapter: Path) -> Task | None:
    named = read_adapter_config(adapter).get("task_type")
    return next((task for task, name in TASK_TYPES.items() if name == named), None)


def _num_labels(model: Model, adapter: Path) -> int | None:
    """The rows of the saved head; None if the model's has as many."""
    saved = tensors_of(adapter)
    for ours, source in weight_map_of(model).items():
        rows = {len(saved[name]) for name in source.names if name in saved and saved[name].ndim}
        if not ours.startswith("body.") and rows - {model.get_parameter(ours).shape[0]}:
            return max(rows)
    return None
