"""LoRA (Hu et al. 2021, arXiv:2106.09685) and DoRA on linears, LoRA on embeddings.

Shapes: N rows (any number of dimensions), I inputs, O outputs, R rank, V vocabulary, D width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from pharos.adapt.config import LoraConfig
from pharos.adapt.dora import row_factors, row_lengths
from pharos.adapt.fast_lora import LowRank, add_rows, low_rank
from pharos.adapt.layers import Part, device_of, weight_of
from pharos.adapt.sites import Site
from pharos.ops.frozen_linear import compute_dtype


def scale_of(config: LoraConfig, name: str, rank: int) -> float:
    """What B·A is multiplied by."""
    return config.alpha_of(name) / (math.sqrt(rank) if config.use_rslora else rank)


class LoraPart(Part):
    """A low-rank update of one site's rows; with `magnitude_O`, DoRA's. Kept in float32."""

    def __init__(
        self, site: Site, base: nn.Module, config: LoraConfig, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        in_features, out_features = base.in_features, base.out_features
        assert isinstance(in_features, int) and isinstance(out_features, int)
        self.name, self.rows = site.theirs, site.rows(out_features)
        self.scale = scale_of(config, site.theirs, rank)
        self.dropout = nn.Dropout(config.lora_dropout)
        device = device_of(base)
        num_rows = self.rows.stop - self.rows.start
        bound = in_features**-0.5
        a_RI = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(a_RI.to(device))
        self.lora_B = nn.Parameter(torch.zeros(num_rows, rank, device=device))
        self.magnitude_O: nn.Parameter | None = None
        self.frozen_factors_O: Tensor | None = None
        if config.use_dora:
            weight_OI = weight_of(base, torch.float32)[self.rows].detach()
            self.magnitude_O = nn.Parameter(row_lengths(weight_OI))

    @property
    def pair(self) -> LowRank:
        return LowRank(self.lora_A, self.lora_B, self.scale, self.rows)

    @property
    def is_linear_in_x(self) -> bool:
        """Whether it is a low-rank pair and nothing more, at this moment."""
        drops = self.training and self.dropout.p > 0
        return self.magnitude_O is None and not drops

    def forward(self, x_NI: Tensor, y_NO: Tensor, base: nn.Module) -> Tensor:
        """What the base gave, with this update."""
        dropped_NI = self.dropout(x_NI.to(compute_dtype(x_NI)))
        added = low_rank(dropped_NI, self.pair)
        if self.magnitude_O is None:
            return add_rows(y_NO, added, self.rows)
        factors_O = self._factors(base)
        of_base = self._of_base(dropped_NI, y_NO, base)
        dtype = y_NO.dtype
        added = (factors_O - 1).to(dtype) * of_base + factors_O.to(dtype) * added
        return add_rows(y_NO, added, self.rows)

    @torch.no_grad()
    def freeze(self, base: nn.Module) -> None:
        """DoRA's factors need the whole weight: they are computed once."""
        if self.magnitude_O is not None:
            self.frozen_factors_O = self._factors(base)

    def _factors(self, base: nn.Module) -> Tensor:
        """What DoRA multiplies each row with."""
        assert self.magnitude_O is not None
        if self.frozen_factors_O is not None:
            return self.frozen_factors_O
        return row_factors(self._weight(base), self.delta().detach(), self.magnitude_O)

    def _weight(self, base: nn.Module) -> Tensor:
        return weight_of(base, torch.float32)[self.rows].detach()

    def _of_base(self, dropped_NI: Tensor, y_NO: Tensor, base: nn.Module) -> Tensor:
        """W x, of what dropout has left of x."""
        if self.training and self.dropout.p > 0:
            return linear(dropped_NI, self._weight(base).to(dropped_NI.dtype))
        bias_O = base.bias
        y_NO = y_NO[..., self.rows]
        return y_NO if bias_O is None else y_NO - bias_O[self.rows]  # type: ignore[index]

    def delta(self) -> Tensor:
        """s·B·A, in float32."""
        return self.lora_B.float() @ self.lora_A.float() * self.scale

    def merge_into(self, weight_OI: Tensor) -> None:
        """Add the update to a weight in float32, in place."""
        rows_OI, delta_OI = weight_OI[self.rows], self.delta()
        if self.magnitude_O is None:
            rows_OI += delta_OI
        else:
            factors_O = row_factors(rows_OI, delta_OI, self.magnitude_O)
            rows_OI.copy_((rows_OI + delta_OI) * factors_O[:, None])

    def tensors(self) -> dict[str, Tensor]:
        found = {
            f"{self.name}.lora_A.weight": self.lora_A.data,
            f"{self.name}.lora_B.weight": self.lora_B.data,
        }
        if self.magnitude_O is not None:
            found[f"{self.name}.lora_magnitude_vector"] = self.magnitude_O.data
        return found


class EmbeddingLoraPart(Part):
    """A low-rank update of an embedding: s·A[ids]·Bᵀ. A begins as zero, since it is looked up."""

    def __init__(
        self,
        site: Site,
        base: nn.Embedding,
        config: LoraConfig,
        rank: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.name, self.scale = site.theirs, scale_of(config, site.theirs, rank)
        device, width = base.weight.device, base.embedding_dim
        b_DR = torch.empty(width, rank).normal_(generator=generator)
        self.lora_A = nn.Parameter(torch.zeros(rank, base.num_embeddings, device=device))
        self.lora_B = nn.Parameter(b_DR.to(device))

    def forward(self, ids: Tensor, y: Tensor) -> Tensor:
        looked_up = linear(embedding(ids, self.lora_A.T), self.lora_B) * self.scale
        return y + looked_up.to(y.dtype)

    def merge_into(self, weight_VD: Tensor) -> None:
        weight_VD += self.lora_A.T.float() @ self.lora_B.T.float() * self.scale

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{self.name}.lora_embedding_A": self.lora_A.data,
            f"{self.name}.lora_embedding_B": self.lora_B.data,
        }
