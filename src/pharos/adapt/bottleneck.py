"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751): a small network behind a sublayer.

    y + up(act(down(y)))

`up` begins as zero, so the model begins as it was. Not linear: it cannot be merged.

Shapes: N rows (any number of dimensions), O the width of the sublayer, S the bottleneck's.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pharos.adapt.config import BottleneckConfig
from pharos.adapt.layers import Part, device_of
from pharos.adapt.sites import Site
from pharos.ops.feed_forward import ACTIVATIONS


class BottleneckPart(Part):
    unmergeable = "a bottleneck cannot be merged: it is not linear; keep it beside the model"

    def __init__(
        self, site: Site, base: nn.Module, config: BottleneckConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        width, device = base.out_features, device_of(base)
        assert isinstance(width, int)
        self.name, self.activation = site.theirs, ACTIVATIONS[config.activation]
        down_SO = torch.empty(config.size, width).normal_(std=width**-0.5, generator=generator)
        self.down = nn.Parameter(down_SO.to(device))
        self.down_bias = nn.Parameter(torch.zeros(config.size, device=device))
        self.up = nn.Parameter(torch.zeros(width, config.size, device=device))
        self.up_bias = nn.Parameter(torch.zeros(width, device=device))

    def forward(self, x_NI: Tensor, y_NO: Tensor, base: nn.Module) -> Tensor:
        dtype = y_NO.dtype
        hidden_NS = linear(y_NO, self.down.to(dtype), self.down_bias.to(dtype))
        hidden_NS = self.activation(hidden_NS)
        added: Tensor = linear(hidden_NS, self.up.to(dtype), self.up_bias.to(dtype))
        return y_NO + added

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{self.name}.adapter_down.weight": self.down.data,
            f"{self.name}.adapter_down.bias": self.down_bias.data,
            f"{self.name}.adapter_up.weight": self.up.data,
            f"{self.name}.adapter_up.bias": self.up_bias.data,
        }
