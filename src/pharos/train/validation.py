"""The rows that a run evaluates on: spread evenly over the set, and the same each time."""

from collections.abc import Iterator, Sequence

from pharos.core.errors import TrainingError
from pharos.data.rows import Rows, row_generator
from pharos.train.objective import Batch, Objective
from pharos.train.ranks import Ranks


def validation_batches(
    rows: Rows,
    objective: Objective,
    *,
    wanted: int | None,
    micro_batch_size: int,
    at_once: int,
    ranks: Ranks,
    seed: int,
) -> Iterator[Sequence[Batch]]:
    """`wanted` of the rows (None: all), dealt to the ranks, in lists of `at_once` micro-batches (so
    many a pipeline works on; of the last list there may be fewer where that is 1). Raises
    TrainingError for fewer rows than are read at once."""
    least = ranks.world * (micro_batch_size * at_once if at_once > 1 else 1)
    count = len(rows) if wanted is None else min(wanted, len(rows))
    count -= count % least
    if not count:
        raise TrainingError(
            f"there are {len(rows)} rows to evaluate on, fewer than the {least} that are read at "
            "once; hold out more (data.validation)"
        )
    chosen = [i * len(rows) // count for i in range(count)][ranks.rank :: ranks.world]
    size = micro_batch_size
    for first in range(0, len(chosen), size * at_once):
        numbers = chosen[first : first + size * at_once]
        yield [
            _batch(rows, objective, numbers[i : i + size], seed)
            for i in range(0, len(numbers), size)
        ]


def _batch(rows: Rows, objective: Objective, numbers: Sequence[int], seed: int) -> Batch:
    return objective.collate(
        [objective.example(rows.row(i, 0), row_generator("evaluation", seed, i)) for i in numbers]
    )
