"""DoRA (Liu et al. 2024, arXiv:2402.09353): the length of each row of a weight is learned apart
from its direction, and only the direction is of low rank.

    W' = m · (W + s·B·A) / ‖W + s·B·A‖

The norm is a constant for the gradient, as the paper proposes: a third less memory, and the same
results.

Shapes: O outputs, I inputs.
"""

import torch
from torch import Tensor


def row_lengths(weight_OI: Tensor) -> Tensor:
    length_O: Tensor = torch.linalg.vector_norm(weight_OI.float(), dim=1)
    return length_O


def row_factors(weight_OI: Tensor, delta_OI: Tensor, magnitude_O: Tensor) -> Tensor:
    """What each row of W + ΔW is multiplied by. Gradients flow to the magnitude alone."""
    with torch.no_grad():
        length_O = row_lengths(weight_OI.float() + delta_OI.float())
    return magnitude_O / length_O
