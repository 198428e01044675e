"""Contrastive learning: of all pairings in a batch, which belong together?

`InfoNCE` (CLIP; Radford et al. 2021, arXiv:2103.00020) has each side choose its partner among all
of the other side, `SigmoidPairs` (SigLIP; Zhai et al. 2023, arXiv:2303.15343) asks of each pairing
by itself whether it is a pair. Both need a `TwoTowers`; SigLIP's has a bias.

All ranks' pairs are one batch: each rank compares its own with those gathered from all, and the
gradients go back the way they came. Each rank must bring as many. A micro-batch however is a batch
of its own: gradient accumulation adds steps' worth of pairs, not negatives.

Rows have the inputs of both sides, `first_ids` and `second_ids` for texts (maybe with
`first_token_types`), arrays of one shape (`first_pixels`) for anything else.

Shapes: b pairs of this rank, B of all, E width of the shared space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.family import Body, Task
from pharos.models.two_towers import (
    SIGLIP_BIAS,
    SIGLIP_SCALE,
    Pooling,
    TextTower,
    TwoTowers,
)
from pharos.train.objective import Batch
from pharos.train.objectives.supervised import collate_texts
from pharos.train.objectives.vocabulary import Vocabulary

SIDES = ("first_", "second_")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastiveConfig:
    """Of the tower that both texts of a pair go through: what its vector is pooled from, and its
    width (default: that of the hidden states, as it comes)."""

    pooling: Pooling = "mean"
    width: int | None = None

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"width is {self.width}; it must be at least 1, or null")


class InfoNCE:
    """A pair's loss is the mean of two cross-entropies: of the first choosing its second, and the
    other way round."""

    task: ClassVar[Task] = "body"
    """What the model is made for, before it becomes a tower."""
    weights: Mapping[str, float] = {"info_nce": 1.0}

    def __init__(self, config: ContrastiveConfig, vocabulary: Vocabulary) -> None:
        self.config, self.pad_id = config, vocabulary.pad_id

    def towers(self, body: Body, *, seed: int = 0) -> TwoTowers:
        """What is trained, of one body for both sides; two towers are put together by hand."""
        return TwoTowers(text_tower(body, self.config, seed))

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        return collate_pairs(examples, pad_id=self.pad_id)

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"info_nce": num_pairs(batch)}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`: how many firsts found their second."""
        model = check_towers(model)
        x_bE, y_bE = model(side(batch, "first_"), side(batch, "second_"))
        with torch.autocast(x_bE.device.type, enabled=False):
            scale = model.scale()
            of_first_bB = scale * x_bE @ gather(y_bE).T
            of_second_bB = scale * y_bE @ gather(x_bE).T
        partner_b = own_columns(len(x_bE), x_bE.device)
        loss = cross_entropy(of_first_bB, partner_b, reduction="sum") / 2
        loss = loss + cross_entropy(of_second_bB, partner_b, reduction="sum") / 2
        return {"info_nce": loss, "correct": (of_first_bB.argmax(-1) == partner_b).float().sum()}


class SigmoidPairs:
    """A pair's loss is the sum over its line of pairings: itself, and its first with all others'
    seconds."""

    task: ClassVar[Task] = "body"
    """What the model is made for, before it becomes a tower."""
    weights: Mapping[str, float] = {"sigmoid_pairs": 1.0}

    def __init__(self, config: ContrastiveConfig, vocabulary: Vocabulary) -> None:
        self.config, self.pad_id = config, vocabulary.pad_id

    def towers(self, body: Body, *, seed: int = 0) -> TwoTowers:
        """What is trained, of one body for both sides; two towers are put together by hand."""
        return TwoTowers(text_tower(body, self.config, seed), scale=SIGLIP_SCALE, bias=SIGLIP_BIAS)

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        return collate_pairs(examples, pad_id=self.pad_id)

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"sigmoid_pairs": num_pairs(batch)}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`: how many firsts found their second."""
        model = check_towers(model)
        if model.bias is None:
            raise TrainingError(
                "sigmoid_pairs needs towers with a bias, and these have none; make them with "
                "scale=10 and bias=-10"
            )
        x_bE, y_bE = model(side(batch, "first_"), side(batch, "second_"))
        with torch.autocast(x_bE.device.type, enabled=False):
            z_bB = model.scale() * x_bE @ gather(y_bE).T + model.bias.float()
        partner_b = own_columns(len(x_bE), x_bE.device)
        is_pair_bB = partner_b[:, None] == torch.arange(z_bB.shape[1], device=z_bB.device)
        loss = -logsigmoid(z_bB.where(is_pair_bB, -z_bB)).sum()
        return {"sigmoid_pairs": loss, "correct": (z_bB.argmax(-1) == partner_b).float().sum()}


def text_tower(body: Body, config: ContrastiveConfig, seed: int) -> TextTower:
    return TextTower(body, width=config.width, pooling=config.pooling, seed=seed)


def collate_pairs(examples: Sequence[Row], *, pad_id: int) -> Batch:
    batch: dict[str, Tensor] = {}
    for prefix in SIDES:
        if f"{prefix}ids" in examples[0]:
            batch |= collate_texts(examples, pad_id=pad_id, prefix=prefix)
        for name in examples[0]:
            if name.startswith(prefix) and name not in batch:
                batch[name] = torch.from_numpy(np.stack([example[name] for example in examples]))
    return batch


def side(batch: Batch, prefix: str) -> dict[str, Tensor]:
    """One side's inputs, by the names that its tower gives them."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in batch.items()
        if name.startswith(prefix)
    }


def num_pairs(batch: Batch) -> int:
    """Of this rank."""
    return len(next(iter(batch.values())))


def check_towers(model: nn.Module) -> TwoTowers:
    if not isinstance(model, TwoTowers):
        raise TrainingError(
            f"a contrastive objective needs two towers, and the model is a {type(model).__name__}; "
            "put its body into a TextTower, and that into TwoTowers"
        )
    return model


def gather(x_bE: Tensor) -> Tensor:
    """All ranks' rows, `[B, E]`, in the order of the ranks. What any rank's loss asks of a row goes
    back to the rank that it came from."""
    if world_size() == 1:
        return x_bE
    x_BE: Tensor = _Gather.apply(x_bE)  # type: ignore[no-untyped-call]
    return x_BE


def own_columns(num_rows: int, device: torch.device) -> Tensor:
    """Where this rank's rows stand among all."""
    rank = dist.get_rank() if world_size() > 1 else 0
    return torch.arange(num_rows, device=device) + rank * num_rows


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_bE: Tensor) -> Tensor:
        parts = [torch.empty_like(x_bE) for _ in range(world_size())]
        dist.all_gather(parts, x_bE.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient_BE = gradients[0].contiguous().clone()
        dist.all_reduce(gradient_BE)
        return gradient_BE.chunk(world_size())[dist.get_rank()]
