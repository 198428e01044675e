"""A run while it goes on: a panel in a terminal, a line for each record in a file or a pipe.

Messages go to stderr, as always; what the model writes at evaluations is shown above the panel.
"""

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pharos.cli.terminal import messages, one_line, printable, shown_path
from pharos.train.events import Evaluation, Observer, RunFacts, StepRecord

BLOCKS = "▁▂▃▄▅▆▇█"
RECENT = 20
"""Records that the time left is judged by."""


class TrainingPanel(Observer):
    """Draws on `console` (default: stderr)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or messages()
        self.live: Live | None = None
        self.losses: list[float] = []
        self.seconds: deque[float] = deque(maxlen=RECENT)
        self.record: StepRecord | None = None
        self.evaluation: Evaluation | None = None
        self.best: Evaluation | None = None
        self.checkpoint = ""

    def on_start(self, facts: RunFacts) -> None:
        self.facts = facts
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=False)
            self.live.start()
            self._draw()
        elif facts.first_step:
            self._print(f"going on at step {facts.first_step:,} of {facts.steps:,}")

    def on_step(self, record: StepRecord) -> None:
        self.record = record
        self.losses.append(record.train_loss)
        self.seconds.append(record.seconds)
        if self.live is None:
            self._print(line(record, self.facts.steps, self.seconds_left()))
        self._draw()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        best = math.inf if self.best is None else self.best.val_loss
        if evaluation.val_loss < best:
            self.best = evaluation
        if self.live is None:
            self._print(f"step {evaluation.step:,}: validation loss {evaluation.val_loss:.4f}")
        for sample in evaluation.samples:
            self._print(f"  {one_line(sample)}" if self.live is None else printable(sample))
        self._draw()

    def on_checkpoint(self, step: int, folder: Path) -> None:
        self.checkpoint = f"step {step:,} in {shown_path(folder)}"
        if self.live is None:
            self._print(f"step {step:,}: checkpoint in {shown_path(folder)}")
        self._draw()

    def on_end(self, *, is_complete: bool) -> None:
        if self.live is not None:
            self._draw()
            self.live.stop()
            self.live = None

    def seconds_left(self) -> float:
        """By the mean of the last records; NaN while there are none."""
        if self.record is None:
            return math.nan
        left = self.facts.steps - self.record.step
        return left * sum(self.seconds) / len(self.seconds)

    def _print(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def _draw(self) -> None:
        if self.live is not None:
            self.live.update(self.panel())

    def panel(self) -> Panel:
        """What is drawn."""
        facts, record = self.facts, self.record
        step = record.step if record else facts.first_step
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        left = "" if record is None else f"{clock(self.seconds_left())} left"
        total = ProgressBar(total=facts.steps, completed=step)
        bar.add_row(Text(f"step {step:,} of {facts.steps:,}"), total, Text(left))
        width = max(16, self.console.width - 6)
        curve = Text(sparkline(self.losses, width), style="yellow")
        parts: list[RenderableType] = [bar, Text(), curve, Text(), self._figures()]
        if self.checkpoint:
            parts.append(Text(f"checkpoint: {self.checkpoint}", style="dim"))
        return Panel(Group(*parts), title=Text(shown_path(facts.output)))

    def _figures(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(2):
            table.add_column(style="dim", no_wrap=True)
            table.add_column(no_wrap=True, min_width=20)
        cells = [*self._measured(), *self._known()]
        for pair in zip(cells[::2], cells[1::2], strict=True):
            table.add_row(*(Text(part) for cell in pair for part in cell))
        return table

    def _measured(self) -> list[tuple[str, str]]:
        record, now, best = self.record, self.evaluation, self.best
        if record is None:
            return []
        waited = record.waited_seconds / max(record.seconds, 1e-9)
        return [
            ("train loss", f"{record.train_loss:.4f}"),
            ("learning rate", f"{record.learning_rate:.2e}"),
            ("validation loss", "not yet" if now is None else f"{now.val_loss:.4f}"),
            ("gradient norm", f"{record.gradient_norm:.3g}"),
            ("best", "" if best is None else f"{best.val_loss:.4f} at step {best.step:,}"),
            ("memory", f"{record.memory_bytes / 2**30:.2f} GiB"),
            ("tokens/s", f"{record.tokens_per_second:,.0f}"),
            ("MFU", "not known here" if record.mfu is None else f"{record.mfu:.1%}"),
            ("tokens", f"{record.tokens:,}"),
            ("waiting for data", f"{waited:.1%} of the time"),
        ]

    def _known(self) -> list[tuple[str, str]]:
        facts = self.facts
        processes = f" × {facts.processes}" if facts.processes > 1 else ""
        return [
            ("parameters", f"{facts.num_trainable:,}"),
            ("device", one_line(facts.device) + processes),
        ]


def line(record: StepRecord, steps: int, seconds_left: float) -> str:
    """`step 100/2,000  loss 2.5340  lr 9.5e-04  norm 1.2  12,300 tokens/s  0:45 left`."""
    parts = [
        f"step {record.step:,}/{steps:,}",
        f"loss {record.train_loss:.4f}",
        f"lr {record.learning_rate:.1e}",
        f"norm {record.gradient_norm:.3g}",
        f"{record.tokens_per_second:,.0f} tokens/s",
    ]
    if record.mfu is not None:
        parts.append(f"MFU {record.mfu:.1%}")
    return "  ".join([*parts, f"{clock(seconds_left)} left"])


def clock(seconds: float) -> str:
    """`1:05`, `2:00:00`, `3 d 04:00:00`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A row of blocks, each the mean of its stretch; what is not finite is a cross."""
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [column * len(values) // columns for column in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high / 2 - low / 2  # halves: the difference of the largest numbers is not finite

    def block(mean: float) -> str:
        if not math.isfinite(mean):
            return "×"
        share = (mean / 2 - low / 2) / span if span else 0.0
        return BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)]

    return "".join(block(mean) for mean in means)
