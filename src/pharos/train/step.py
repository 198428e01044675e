"""A model and its objective as one module: what is wrapped, compiled or sharded, so that an
objective may call any part of the model it likes."""

from collections.abc import Mapping

from torch import Tensor, nn

from pharos.train.objective import Batch, Objective


class Step(nn.Module):
    """From a batch to the sums of the losses. Has the model's parameters and no others: those of
    the objective (a teacher) are not trained."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        return self.objective.losses(self.model, batch)
