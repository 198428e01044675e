"""Curves as SVG: lines over steps, with axes that a reader would have chosen.

A page gives them their colours: lines have the class that the series names, and `grid`, `axis` and
`dot` are classes too. Nothing in them comes from outside but numbers and escaped labels.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 56, 14, 12, 30
MOST_POINTS = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """`points` are (step, value), ascending; what is not finite is left out. Where `has_dots`, each
    is marked, and says its value when pointed at."""

    label: str
    points: Sequence[Point]
    style: str
    has_dots: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """From `low` to `high`, evenly or by powers, with a line at each of `ticks`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value is, 0 to 1."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def chart(
    series: Sequence[Series],
    *,
    title: str,
    from_zero: bool = False,
    is_log: bool = False,
    width: int = 720,
    height: int = 300,
    x_name: str = "step",
) -> str:
    """An SVG of the series that have points; nothing if none has. By powers, what is not positive
    is left out. `x_name` is what the dots call the first number of a point."""
    drawn = [_finite(each, positive=is_log) for each in series]
    drawn = [each for each in drawn if each.points]
    if not drawn:
        return ""
    x_axis = axis([x for each in drawn for x, _ in each.points], most_ticks=max(2, width // 90))
    values = [y for each in drawn for _, y in each.points]
    y_axis = log_axis(values) if is_log else axis([0.0, *values] if from_zero else values)

    def place(point: Point) -> Point:
        across, up = x_axis.share(point[0]), y_axis.share(point[1])
        return (
            MARGIN_LEFT + across * (width - MARGIN_LEFT - MARGIN_RIGHT),
            height - MARGIN_BOTTOM - up * (height - MARGIN_TOP - MARGIN_BOTTOM),
        )

    curves = [_curve(each, place, x_name) for each in drawn]
    parts = [*_grid(x_axis, y_axis, place, height), *curves]
    label = html.escape(title, quote=True)
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{inside}</svg>'


def axis(values: Sequence[float], *, most_ticks: int = 6) -> Axis:
    """Around the values, with ticks at multiples of 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / most_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low=low, high=high, ticks=tuple(n * step for n in range(first, last + 1)))


def log_axis(values: Sequence[float], *, most_ticks: int = 7) -> Axis:
    """Around the values, which are positive, with ticks at powers of ten, and at 2 and 5 times
    them where few would be left."""
    low, high = min(values) / 1.1, max(values) * 1.1
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in ((1,), (1, 2, 5)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [tick for tick in found if low <= tick <= high]
        if not ticks or len(inside) <= most_ticks:
            ticks = inside
    stride = -(-len(ticks) // most_ticks) or 1
    return Axis(low=low, high=high, ticks=tuple(ticks[::stride]), is_log=True)


def number(value: float) -> str:
    """As one would write it: 1,500, 0.25, 3e-4."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g}M"
    if abs(value) < 1e-2:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points: means of neighbours, if there are more."""
    size = -(-len(points) // most)
    if size <= 1:
        return list(points)
    groups = (points[first : first + size] for first in range(0, len(points), size))
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _finite(series: Series, *, positive: bool) -> Series:
    points = [(x, y) for x, y in series.points if math.isfinite(y) and (y > 0 or not positive)]
    points = points if series.has_dots else thinned(points)
    return Series(label=series.label, points=points, style=series.style, has_dots=series.has_dots)


def _grid(x_axis: Axis, y_axis: Axis, place: Callable[[Point], Point], height: int) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        left, y = place((x_axis.low, tick))
        right, _ = place((x_axis.high, tick))
        line = f'x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="grid" {line}/>')
        at = f'x="{left - 8:.1f}" y="{y:.1f}" dy=".32em" text-anchor="end"'
        parts.append(f'<text class="axis" {at}>{number(tick)}</text>')
    for tick in x_axis.ticks:
        x, _ = place((tick, y_axis.low))
        at = f'x="{x:.1f}" y="{height - 10}" text-anchor="middle"'
        parts.append(f'<text class="axis" {at}>{number(tick)}</text>')
    return parts


def _curve(series: Series, place: Callable[[Point], Point], x_name: str) -> str:
    style = html.escape(series.style, quote=True)
    places = [place(point) for point in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="{style}" fill="none" points="{path}"/>']
    if series.has_dots or len(places) == 1:
        for (step, value), (x, y) in zip(series.points, places, strict=True):
            said = html.escape(f"{series.label} {value:.4f} at {x_name} {step:,.10g}")
            circle = f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            parts.append(f"{circle}<title>{said}</title></circle>")
    return "".join(parts)
