"""Pairs with what the reference says of them, asked before the run begins."""

from dataclasses import replace
from pathlib import Path

import torch

from pharos.data.order import Shuffled
from pharos.data.rows import Rows
from pharos.train.objectives.preference import DPO
from pharos.train.objectives.reference_rows import ReferenceRows
from pharos.train.reference import Reference
from pharos.train.text_data import Data

AT_ONCE = 8


def with_reference(
    data: Data, objective: DPO, folder: Path, *, device: torch.device, dtype: torch.dtype
) -> Data:
    """The files are in `folder`. The objective's own reference is then given up: its memory is free
    for the run."""
    assert isinstance(data.stream, Shuffled) and objective.reference.model is not None
    model = objective.reference.model.to(device)

    def asked(rows: Rows, name: str) -> ReferenceRows:
        return ReferenceRows.computed(
            rows,
            model,
            folder / f"reference-{name}.npz",
            pad_id=objective.pad_id,
            batch_size=AT_ONCE,
            dtype=dtype,
        )

    stream = Shuffled(asked(data.stream.rows, "train"), data.stream.seed)
    held_out = data.validation and asked(data.validation, "validation")
    objective.reference = Reference()
    return replace(data, stream=stream, validation=held_out)
