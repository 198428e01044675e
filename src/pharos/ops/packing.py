"""Batches without padding: the tokens of all texts stand one after another, N in all.

Whatever treats tokens one by one (embeddings, linears, norms) runs over the N rows at once and wastes
nothing. Whatever looks across a text (attention, pooling) takes the texts as runs: neighbours of equal
length, which together are a plain dense tensor. Sorted by length, a batch has few runs.

Shapes: N tokens of the whole batch, B texts of a run, T tokens of each, D width.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """`count` neighbouring texts of `length` tokens each; the first token is row `start`."""

    start: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count * self.length)


def runs_of(lengths: Sequence[int]) -> list[Run]:
    """The lengths of the texts of a packed batch, in order, as runs of equal length."""
    runs: list[Run] = []
    start = 0
    for length, group in groupby(lengths):
        runs.append(Run(start, sum(1 for _ in group), length))
        start = runs[-1].rows.stop
    return runs


def mean_pool(x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
    """The mean over the tokens of each text, in float32: one row a text."""
    means = [
        x_ND[run.rows].view(run.count, run.length, -1).mean(dim=1, dtype=torch.float32)
        for run in runs
    ]
    return torch.cat(means)
