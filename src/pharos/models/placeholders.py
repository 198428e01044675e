"""Modules whose parameters hold nothing yet. torch's `meta` device would do too, but its first use
imports some 800 modules, which takes seconds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Uninitialized(TorchFunctionMode):
    """Modules made within this context keep their parameters as the memory came."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


class Unallocated(TorchFunctionMode):
    """Modules made within this context have parameters with a shape and no memory behind it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.empty:
            shape = args if isinstance(args[0], int) else args[0]
            return torch.zeros((), **(kwargs or {})).expand(shape)
        if func is Tensor.fill_:
            return args[0]
        return func(*args, **(kwargs or {}))
