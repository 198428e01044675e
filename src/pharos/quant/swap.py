"""Walking a model to exchange its linears; the model's own file does not know."""

from collections.abc import Callable, Iterator

from torch import nn

Make = Callable[[nn.Linear, bool], nn.Module]
"""Makes the replacement of a linear; the flag says that it has to apply GELU as well."""


def swap_linears(model: nn.Module, make: Make) -> None:
    """Replace every linear of `model`, in place. Where an exact GELU follows one inside an
    `nn.Sequential`, the replacement takes it over and the GELU becomes an identity."""
    for parent, name, linear, gelu_name in list(_linears(model)):
        setattr(parent, name, make(linear, gelu_name is not None))
        if gelu_name is not None:
            setattr(parent, gelu_name, nn.Identity())


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear, str | None]]:
    for parent in model.modules():
        children = list(parent.named_children())
        for i, (name, child) in enumerate(children):
            if isinstance(child, nn.Linear):
                following = children[i + 1 : i + 2] if isinstance(parent, nn.Sequential) else []
                gelu = next((other for other, module in following if _is_exact_gelu(module)), None)
                yield parent, name, child, gelu


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"
