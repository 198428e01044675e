"""What the tables of all plans share: units, rows with their reasons, what is assumed."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from pharos.cli.terminal import indented, one_line, results

GIVEN = "given"
Row = tuple[str, str, str]
"""A name, a value, and where it comes from."""


def counted(number: float) -> str:
    """`7.24B`; three digits, as the field writes sizes."""
    if number >= 1e15:
        return f"{number:.3g}"
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def gigabytes(num_bytes: float) -> str:
    value = num_bytes / 1e9
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.05 else "0"


def binary(num_bytes: float) -> str:
    """In units of 1024, as caches are counted."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.4g} {unit}"


def amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def dollars(price: float) -> str:
    if price >= 1e6:
        return f"${counted(price)}"
    return f"${price:,.0f}" if price >= 100 else f"${price:.2f}"


def lasting(days: float) -> str:
    """In the largest unit of which there is one."""
    for unit, length in (("days", 1.0), ("hours", 1 / 24), ("minutes", 1 / 1440)):
        if days >= length:
            return f"{days / length:,.3g} {unit}"
    return f"{days * 86_400:.3g} seconds"


def seconds(duration: float) -> str:
    return f"{duration:.3g} s" if duration >= 1 else f"{duration * 1000:.3g} ms"


def print_title(text: str) -> None:
    results().print(Text(text, style="bold"), soft_wrap=True)


def table_of(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(title, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_rows(rows: Sequence[Row]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(style="dim")
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(style="dim", overflow="fold")
    for name, value, note in rows:
        table.add_row(name, value, one_line(note))
    results().print(table)


def print_assumptions(assumptions: Iterable[str]) -> None:
    console = results()
    console.print(Text("\nAssumed", style="dim"))
    for assumption in assumptions:
        for line in indented(Text(one_line(assumption), style="dim"), "  ", console):
            console.print(line)
