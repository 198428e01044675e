"""Walking a model to exchange its linears; the model's own file does not know."""

from collections.abc import Callable, Collection

from torch import nn

Make = Callable[[nn.Linear, bool], nn.Module]
"""Makes the replacement of a linear; the flag says that it has to apply a GELU as well."""


def swap_linears(model: nn.Module, make: Make, *, kept: Collection[str] = ()) -> None:
    """Replace every linear of `model`, in place, but for those whose name in the module around them
    is one of `kept`. Where an exact GELU follows one inside an `nn.Sequential`, the replacement
    takes it over and the GELU becomes an identity."""
    for parent in list(model.modules()):
        _swap_children(parent, make, kept)


def _swap_children(parent: nn.Module, make: Make, kept: Collection[str]) -> None:
    children = [(name, child) for name, child in parent.named_children() if name not in kept]
    in_order = isinstance(parent, nn.Sequential)
    gelus = [in_order and _is_exact_gelu(child) for _, child in children]
    for i, (name, child) in enumerate(children):
        if isinstance(child, nn.Linear):
            setattr(parent, name, make(child, any(gelus[i + 1 : i + 2])))
        elif gelus[i] and i > 0 and isinstance(children[i - 1][1], nn.Linear):
            setattr(parent, name, nn.Identity())


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"
