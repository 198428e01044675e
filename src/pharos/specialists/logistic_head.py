"""Multinomial logistic regression on unit vectors: a head that a handful of examples can train.

Newton's method would need a matrix of (classes x width) squared, so L-BFGS minimises

    mean of -log softmax(X Wᵀ + b)[y] + ridge · |W|² / 2

in float32; it is convex, so the result does not depend on where it begins. Classes count alike,
however many examples each has.

Shapes: N examples, D width, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

Array = NDArray[np.float64]
MAX_ITERATIONS = 200


@dataclass(frozen=True, eq=False, slots=True)
class LogisticHead:
    weight_CD: Array
    bias_C: Array

    def logits(self, x_ND: NDArray[np.floating]) -> Array:
        logits: Array = x_ND.astype(np.float64) @ self.weight_CD.T + self.bias_C
        return logits


def fit_head(
    x_ND: NDArray[np.floating], label_N: NDArray[np.intp], num_classes: int, *, ridge: float
) -> LogisticHead:
    """Examples whose vectors are `x_ND` are of the classes `label_N`."""
    x = torch.from_numpy(np.ascontiguousarray(x_ND, dtype=np.float32))
    label = torch.from_numpy(label_N.astype(np.int64))
    counts_C = torch.bincount(label, minlength=num_classes).clamp(min=1)
    share_N = (1.0 / (counts_C * num_classes))[label].float()
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float32, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        each_N = cross_entropy(x @ weight.T + bias, label, reduction="none")
        total = (each_N * share_N).sum() + ridge * weight.square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return LogisticHead(weight.detach().double().numpy(), bias.detach().double().numpy())
