"""The part of a tensor that this process holds: all of it, unless it is a DTensor."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def local_shard(tensor: Tensor) -> Tensor:
    """Shares its memory with the tensor."""
    shard: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return shard.detach()


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient, dealt to the processes as the parameter is."""
    gradient = parameter.grad
    assert gradient is not None
    if isinstance(parameter, DTensor) and isinstance(gradient, DTensor):
        return gradient.redistribute(placements=parameter.placements)
    return gradient
