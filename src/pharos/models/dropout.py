"""Dropout of a model that is there already."""

from torch import nn


def set_dropout(model: nn.Module, share: float) -> None:
    """Drop this share wherever the model drops something: in its `nn.Dropout`s, and where a module
    keeps the share itself, as attention does."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = share  # type: ignore[assignment]
