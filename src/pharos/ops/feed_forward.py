"""The feed-forward half of a transformer block, plain and gated.

Shapes: D hidden width, F feed-forward width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

Activation = Literal["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "silu", "swish"]
"""The names of Hugging Face's `hidden_act`; several stand for one function."""

_tanh_gelu = partial(gelu, approximate="tanh")
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "silu": silu,
    "swish": silu,
}


def check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {name!r}; choose from {', '.join(get_args(Activation))}"
        )


class FeedForward(nn.Module):
    """`down(act(up(x)))`, as in the original Transformer, BERT and GPT."""

    def __init__(
        self, width: int, inner: int, *, activation: str, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_D: Tensor) -> Tensor:
        hidden_F = ACTIVATIONS[self.activation](self.up(x_D))
        y_D: Tensor = self.down(self.dropout(hidden_F))
        return y_D


class GatedFeedForward(nn.Module):
    """`down(act(gate(x)) · up(x))` (Shazeer 2020, arXiv:2002.05202): SwiGLU with SiLU, GeGLU with
    GELU."""

    def __init__(
        self, width: int, inner: int, *, activation: str, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=bias)
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_D: Tensor) -> Tensor:
        hidden_F = ACTIVATIONS[self.activation](self.gate(x_D)) * self.up(x_D)
        y_D: Tensor = self.down(self.dropout(hidden_F))
        return y_D
