"""Which rows are evaluated, by whom."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.train.objective import Batch
from pharos.train.ranks import Ranks
from pharos.train.validation import validation_batches


class Numbers:
    """Row n is the number n."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def row(self, index: int, epoch: int) -> Row:
        return {"ids": np.array([index])}


class Drawn:
    """Each row beside something random."""

    weights: Mapping[str, float] = {"drawn": 1.0}

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return {"ids": row["ids"], "drawn": generator.integers(1 << 30, size=1)}

    def collate(self, examples: Sequence[Row]) -> Batch:
        return {
            name: torch.from_numpy(np.stack([example[name] for example in examples]))
            for name in examples[0]
        }


def evaluated(count: int, *, world: int = 1, **changes: Any) -> list[list[list[Batch]]]:
    """By rank, the lists of micro-batches."""
    usual = {"wanted": None, "micro_batch_size": 3, "at_once": 1, "seed": 0}
    objective: Any = Drawn()
    return [
        [
            list(batches)
            for batches in validation_batches(
                Numbers(count), objective, ranks=Ranks(rank=rank, world=world), **usual | changes
            )
        ]
        for rank in range(world)
    ]


def numbers(found: list[list[list[Batch]]]) -> list[int]:
    batches = (batch for rank in found for some in rank for batch in some)
    return [int(number) for batch in batches for number in batch["ids"].flatten()]


@given(
    count=st.integers(1, 40),
    wanted=st.none() | st.integers(1, 50),
    world=st.integers(1, 4),
    micro=st.integers(1, 5),
    at_once=st.integers(1, 3),
)
def test_ranks_share_rows_that_are_spread_over_the_set(
    count: int, wanted: int | None, world: int, micro: int, at_once: int
) -> None:
    sizes = {"wanted": wanted, "micro_batch_size": micro, "at_once": at_once}
    asked = min(wanted or count, count)
    try:
        found = evaluated(count, world=world, **sizes)
    except TrainingError:
        assert asked < world * (micro * at_once if at_once > 1 else 1)
        return
    read = numbers(found)
    assert len(read) == len(set(read)) <= asked
    assert max(np.diff(sorted(read)), default=1) <= -(-count // len(read))
    per_rank = [len(numbers([rank])) for rank in found]
    assert len(set(per_rank)) == 1
    assert all(len(some) == at_once for rank in found for some in rank) or at_once == 1


def test_what_is_random_of_a_row_is_the_same_each_time_and_for_every_world() -> None:
    def drawn(world: int) -> dict[int, int]:
        batches = (batch for rank in evaluated(12, world=world) for some in rank for batch in some)
        return {
            int(number): int(value)
            for batch in batches
            for number, value in zip(batch["ids"], batch["drawn"], strict=True)
        }

    assert drawn(1) == drawn(1) == drawn(3)
    assert len(set(drawn(1).values())) == 12


def test_too_few_rows_name_the_key() -> None:
    with pytest.raises(TrainingError, match=r"there are 3 rows to evaluate on, fewer than the 4"):
        evaluated(3, world=2, micro_batch_size=1, at_once=2)
