"""What a model is trained for.

An objective turns rows into batches and batches into losses. A loss has terms, each a *sum* over
its valid targets (tokens, sequences, pairs) together with how many there are. Means are taken in
one place, the loop: over all targets of an optimizer step, on all devices. So eight batches of one
row train exactly as one batch of eight, however many targets each row has.

    row ─ example ─┐
    row ─ example ─┴ collate ─ batch ─ count ─ losses

`example` runs in worker processes and sees a row with its own random numbers; `count` needs no
model, since the loop must know all counts before the first backward pass.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from pharos.data.rows import Row

IGNORED = -100
"""The label of a place that is not a target."""

Batch = Mapping[str, Tensor]


class Objective(Protocol):
    """`weights` gives each term's weight in the total, which is `Σ weight · sum / count`."""

    @property
    def weights(self) -> Mapping[str, float]: ...

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        """What the model is to see of a row, and what it is to answer."""

    def collate(self, examples: Sequence[Row]) -> Batch:
        """Examples as tensors: padded, one example a line."""

    def count(self, batch: Batch) -> Mapping[str, int]:
        """By term, the number of valid targets."""

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """By term, the sum of the losses of its valid targets: scalars in float32. What is not a
        term (the names that `weights` lacks) is a sum to be logged: how many answers were right."""


def total_counts(objective: Objective, batches: Sequence[Batch]) -> dict[str, int]:
    """By term, the number of valid targets in several batches together."""
    counts = [objective.count(batch) for batch in batches]
    return {name: sum(count[name] for count in counts) for name in objective.weights}
