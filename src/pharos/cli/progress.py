"""Progress on stderr: one bar per stage with its rate and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    DownloadColumn,
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
    """Draws bars while the block runs; yields the function to be told of progress.

    `transient` bars vanish when they are done, and are not drawn at all into a file or a pipe.
    """
    columns = (
        TextColumn("{task.description:<9}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    console = messages()
    hidden = transient and not console.is_terminal
    bars = Progress(*columns, console=console, transient=transient, disable=hidden)

    def show(progress: "IngestProgress") -> None:
        if not progress.files_total:
            return  # nothing to do, or not known yet
        bars.start()
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(progress.stage, total=None, amount="")
        if progress.stage == "ingest":  # the others move to and fro: their end is not known
            task = bars.tasks[tasks[progress.stage]]
            bars.update(
                task.id,
                completed=progress.bytes_done,
                total=progress.bytes_total,
                amount=amount(progress, task.elapsed or 0.0),
            )

    try:
        yield show
        for task_id in tasks.values():
            bars.update(task_id, total=1, completed=1)
    finally:
        if tasks:
            bars.stop()


def amount(progress: "IngestProgress", elapsed: float) -> str:
    """`120/584 files, 1,930 passages, 31.4/s`."""
    files = f"{progress.files_done:,}/{progress.files_total:,} files"
    if not progress.passages:
        return files
    return f"{files}, {progress.passages:,} passages, {progress.passages / max(elapsed, 0.1):.1f}/s"


@contextmanager
def learning_bar(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Draws how much of the texts has been read, then that something is learned from them, which
    takes nobody knows how long; not into a file or a pipe. Yields what is told of bytes read."""
    columns = (
        TextColumn("{task.description:<9}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    console = messages()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("read", total=total_bytes)

        def advance(num_bytes: int) -> None:
            bars.advance(task, num_bytes)
            if bars.tasks[task].finished:
                bars.add_task("learn", total=None)

        yield advance
