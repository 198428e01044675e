"""What the supervised objectives share: texts of several lengths as padded tensors, and how a model
of any kind is had to read them.

Shapes: B texts, T tokens of the longest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.encoder_heads import EncoderHead
from pharos.models.heads import LastTokenClassifier
from pharos.train.objective import Batch


def pad(examples: Sequence[Row], name: str, fill: int) -> Tensor:
    """The arrays of that name, `[B, T]`, filled up at their ends."""
    arrays = [example[name] for example in examples]
    padded_BT = np.full((len(arrays), max(map(len, arrays))), fill, dtype=np.int64)
    for line, array in zip(padded_BT, arrays, strict=True):
        line[: len(array)] = array
    return torch.from_numpy(padded_BT)


def collate_texts(examples: Sequence[Row], *, pad_id: int, prefix: str = "") -> dict[str, Tensor]:
    """`ids` and `valid`, and `token_types` if the examples have them; `prefix` stands before each
    name."""
    lengths_B = torch.tensor([len(example[f"{prefix}ids"]) for example in examples])
    columns_T = torch.arange(int(lengths_B.max()))
    batch = {
        f"{prefix}ids": pad(examples, f"{prefix}ids", pad_id),
        f"{prefix}valid": columns_T < lengths_B[:, None],
    }
    if f"{prefix}token_types" in examples[0]:
        batch[f"{prefix}token_types"] = pad(examples, f"{prefix}token_types", 0)
    return batch


def head_output(model: nn.Module, batch: Batch) -> Any:
    """What the head says of a padded batch. An encoder is told of the padding, and of segments if
    it knows any; a decoder reads from the left and never sees what is padded on the right."""
    if isinstance(model, EncoderHead):
        types_BT = batch.get("token_types") if model.config.type_vocab_size else None
        return model(batch["ids"], valid_BT=batch["valid"], token_types_BT=types_BT)
    if isinstance(model, LastTokenClassifier):
        return model(batch["ids"], last_B=batch["valid"].sum(1) - 1)
    return model(batch["ids"])


def check_head(model: nn.Module, heads: tuple[type[nn.Module], ...], task: str) -> None:
    """Raises TrainingError for a model that has not one of these heads."""
    if not isinstance(model, heads):
        raise TrainingError(
            f"the objective needs a head for {task}, and the model is a {type(model).__name__}; "
            f"build it with the task {task}"
        )
