"""From the hidden states of a packed batch to what is wanted of each text.

Shapes: N rows of a packed batch, B texts of a run, T tokens of the longest of a run, D width,
C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pharos.models.encoder_heads import EncoderHead, FirstTokenClassifier, QuestionAnswering
from pharos.ops import mean_pool
from pharos.ops.packing import Run

Readout = Callable[[Tensor, Sequence[Run], Sequence[int]], Sequence[NDArray[np.float32]]]
"""From hidden states `[N, D]`, the runs, and how many tokens each text has: one array a text."""


def mean_vectors(
    x_ND: Tensor, runs: Sequence[Run], lengths: Sequence[int]
) -> Sequence[NDArray[np.float32]]:
    """The mean over a text's tokens, scaled to length 1: `[D]`."""
    vectors_BD = nn.functional.normalize(mean_pool(x_ND, runs), dim=-1)
    return list(vectors_BD.cpu().numpy())


def readout_of(head: EncoderHead) -> Readout:
    """That of a classifier gives logits `[C]`, that of a reader `[2, T]`: starts and ends."""
    if isinstance(head, FirstTokenClassifier):
        return lambda x_ND, runs, lengths: _classes(head, x_ND, runs)
    assert isinstance(head, QuestionAnswering)
    return lambda x_ND, runs, lengths: _ends(head, x_ND, runs, lengths)


def _classes(head: EncoderHead, x_ND: Tensor, runs: Sequence[Run]) -> list[NDArray[np.float32]]:
    logits_BC: Tensor = head.logits(_first(x_ND, runs)[:, None])
    return list(logits_BC.cpu().numpy())


def _ends(
    head: EncoderHead, x_ND: Tensor, runs: Sequence[Run], lengths: Sequence[int]
) -> list[NDArray[np.float32]]:
    ends_2N: NDArray[np.float32] = torch.stack(list(head.logits(x_ND.float()))).cpu().numpy()
    starts = [run.start + text * run.length for run in runs for text in range(run.texts)]
    return [ends_2N[:, at : at + length] for at, length in zip(starts, lengths, strict=True)]


def pooled_vectors(head: FirstTokenClassifier) -> Readout:
    """What a classifier classifies, scaled to length 1: `[D]`."""

    def vectors(
        x_ND: Tensor, runs: Sequence[Run], lengths: Sequence[int]
    ) -> Sequence[NDArray[np.float32]]:
        pooled_BD = head.activation(head.dense(_first(x_ND, runs)))
        return list(nn.functional.normalize(pooled_BD, dim=-1).cpu().numpy())

    return vectors


def _first(x_ND: Tensor, runs: Sequence[Run]) -> Tensor:
    """The states of the texts' first tokens, `[B, D]`, in float32."""
    return torch.cat([x_ND[run.start : run.rows.stop : run.length] for run in runs]).float()
