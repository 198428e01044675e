"""Progress of an ingest on stderr: one bar per stage with its rate and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pharos.cli.terminal import messages

if TYPE_CHECKING:
    from pharos.rag import IngestProgress


@contextmanager
def progress_bars(*, transient: bool = False) -> Iterator[Callable[["IngestProgress"], None]]:
    """Draws bars while the block runs; yields the function to be told of progress."""
    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=messages(), transient=transient) as bars:

        def show(progress: "IngestProgress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=None, amount="")
            task = tasks[progress.stage]
            elapsed = bars.tasks[task].elapsed or 0.0
            bars.update(
                task,
                completed=progress.bytes_done,
                total=progress.bytes_total,
                amount=amount(progress, elapsed),
            )

        yield show


def amount(progress: "IngestProgress", elapsed: float) -> str:
    """`120/584 files, 1,930 passages, 3.1 MB/s`."""
    parts = [f"{progress.files_done:,}/{progress.files_total:,} files"]
    if progress.passages:
        parts.append(f"{progress.passages:,} passages")
    if elapsed > 0.5:
        parts.append(f"{progress.bytes_done / elapsed / 1e6:.1f} MB/s")
    return ", ".join(parts)
