"""A run as one HTML file that needs nothing else: its curves, its figures, what it wrote on the
way, and its recipe.

    write_report(output)

It is a pure function of `metrics.jsonl` and `recipe.yaml`, so it can be written at any time, also
of a run that goes on or was stopped. Its template is `report.html`; it has no script, and its
content security policy loads nothing.
"""

import base64
import hashlib
import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pharos.train.charts import Series, chart, number
from pharos.train.metrics_log import METRICS_FILE, read_metrics

TEMPLATE = Path(__file__).with_name("report.html")
PLACE = re.compile(r"\{\{(policy|title|name|summary|figures|sections)\}\}")
KEY = re.compile(r"^(\s*(?:- )?)([\w./-]+)(?=:(?: |$))", re.M)
REPORT_FILE = "report.html"

Line = Mapping[str, Any]


def write_report(output: Path) -> Path:
    """The report of the run in a folder, as `report.html` there."""
    recipe = output / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    page = report_page(read_metrics(output / METRICS_FILE), text, name=output.resolve().name)
    path = output / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def report_page(lines: Sequence[Line], recipe: str, *, name: str) -> str:
    """The page, from the lines of the log in order and the text of the recipe."""
    template = TEMPLATE.read_text(encoding="utf-8")
    sections = (_curves(lines), _evaluations(lines), _samples(lines), _settings(recipe))
    parts = {
        "policy": _policy(template),
        "title": html.escape(f"{name}: a training run"),
        "name": html.escape(name),
        "summary": html.escape(summary(lines)),
        "figures": "".join(_figure(*each) for each in figures(lines)),
        "sections": "\n".join(section for section in sections if section),
    }
    return PLACE.sub(lambda place: parts[place[1]], template)


def summary(lines: Sequence[Line]) -> str:
    """A run in a sentence."""
    if not lines:
        return "No step has been logged yet."
    last = lines[-1]
    said = f"{last['step']:,} steps over {number(last['tokens'])} tokens in {duration(lines)}"
    best = best_evaluation(lines)
    if best is None:
        return f"{said}."
    return f"{said}; the best validation loss is {best['val_loss']:.4f}, at step {best['step']:,}."


def figures(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """Of the run as a whole: a name, a value, and a remark."""
    if not lines:
        return []
    last, best = lines[-1], best_evaluation(lines)
    found = [("Train loss", f"{last['train_loss']:.4f}", f"step {last['step']:,}")]
    if best is not None:
        found.append(("Validation loss", f"{best['val_loss']:.4f}", f"step {best['step']:,}"))
    found.append(("Speed", number(median(_numbers(lines, "tokens_per_second"))), "tokens/s"))
    if mfu := _numbers(lines, "mfu"):
        found.append(("MFU", f"{median(mfu):.1%}", "of the peak"))
    if memory := _numbers(lines, "memory_bytes"):
        found.append(("Memory", f"{max(memory) / 2**30:.2f}", "GiB at most"))
    waited = _total(lines, "waited_seconds") / max(_total(lines, "seconds"), 1e-9)
    found.append(("Waited for data", f"{waited:.1%}", "of the time"))
    return found


def best_evaluation(lines: Sequence[Line]) -> Line | None:
    evaluated = [line for line in lines if math.isfinite(line.get("val_loss", math.nan))]
    return min(evaluated, key=lambda line: float(line["val_loss"]), default=None)


def duration(lines: Sequence[Line]) -> str:
    """How long the steps took, evaluations and checkpoints aside."""
    seconds = _total(lines, "seconds")
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _total(lines: Sequence[Line], key: str) -> float:
    """Each line has the mean over the steps since the line before."""
    total, before = 0.0, 0
    for line in lines:
        total += line[key] * (line["step"] - before)
        before = line["step"]
    return total


def _curves(lines: Sequence[Line]) -> str:
    train = Series(label="train", points=_points(lines, "train_loss"), style="train")
    val = Series(label="validation", points=_points(lines, "val_loss"), style="val", has_dots=True)
    loss = chart([train, val], title="Loss by step")
    if not loss:
        return ""
    shown = "".join(
        f'<span class="{each.style}">{each.label}</span>' for each in (train, val) if each.points
    )
    halves = "".join(
        f'<figure class="half"><h3>{title}</h3>{drawn}</figure>'
        for title, drawn in _halves(lines)
        if drawn
    )
    return (
        f'<section><h2>Loss</h2><div class="legend">{shown}</div>{loss}'
        f'<div class="halves">{halves}</div></section>'
    )


def _halves(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """The smaller charts, with their titles."""

    def drawn(
        title: str, key: str, *, from_zero: bool = False, is_log: bool = False
    ) -> tuple[str, str]:
        series = Series(label=title.lower(), points=_points(lines, key), style="other")
        return title, chart(
            [series],
            title=f"{title} by step",
            from_zero=from_zero,
            is_log=is_log,
            width=340,
            height=190,
        )

    return [
        drawn("Learning rate", "learning_rate", from_zero=True),
        drawn("Gradient norm", "gradient_norm", is_log=True),
        drawn("Tokens per second", "tokens_per_second", from_zero=True),
    ]


def _evaluations(lines: Sequence[Line]) -> str:
    evaluated = [line for line in lines if "val_loss" in line]
    if not evaluated:
        return ""
    names = sorted({key for line in evaluated for key in line if key.startswith("val/")})
    names = [
        name for name in names if any(line.get(name) != line["val_loss"] for line in evaluated)
    ]
    best = best_evaluation(lines)
    columns: list[tuple[str, Callable[[Line], str]]] = [
        ("Step", lambda line: f"{line['step']:,}"),
        ("Tokens", lambda line: number(line["tokens"])),
        ("Train loss", lambda line: f"{line['train_loss']:.4f}"),
        ("Validation loss", lambda line: f"{line['val_loss']:.4f}"),
        *((name.removeprefix("val/"), _cell_of(name)) for name in names),
    ]
    heading = "".join(f'<th scope="col">{html.escape(name)}</th>' for name, _ in columns)
    rows = "".join(
        _row([cell(line) for _, cell in columns], is_best=line is best) for line in evaluated
    )
    table = f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<section><h2>Evaluations</h2><div class="wide">{table}</div></section>'


def _row(cells: Sequence[str], *, is_best: bool) -> str:
    inside = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr class="best">{inside}</tr>' if is_best else f"<tr>{inside}</tr>"


def _cell_of(name: str) -> Callable[[Line], str]:
    return lambda line: f"{line[name]:.4f}" if name in line else ""


def _samples(lines: Sequence[Line]) -> str:
    written = [line for line in lines if line.get("samples")]
    if not written:
        return ""
    parts = []
    for line in reversed(written):
        is_open = " open" if line is written[-1] else ""
        texts = "".join(f"<pre>{html.escape(text)}</pre>" for text in line["samples"])
        step = f"Step {line['step']:,}"
        parts.append(f"<details{is_open}><summary>{step}</summary>{texts}</details>")
    return f"<section><h2>What it wrote</h2>{''.join(parts)}</section>"


def _settings(recipe: str) -> str:
    if not recipe.strip():
        return ""
    text = KEY.sub(r'\1<span class="key">\2</span>', html.escape(recipe.strip()))
    return f"<section><h2>Recipe</h2><pre>{text}</pre></section>"


def _figure(name: str, value: str, remark: str) -> str:
    shown = (html.escape(each) for each in (name, value, remark))
    return "<div><dt>{}</dt><dd>{} <small>{}</small></dd></div>".format(*shown)


def _points(lines: Sequence[Line], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _numbers(lines: Sequence[Line], key: str) -> list[float]:
    values = (value for _, value in _points(lines, key))
    return [value for value in values if math.isfinite(value)]


def _policy(template: str) -> str:
    """Applies the template's own style, known by its hash, and nothing else."""
    found = re.search(r"<style>(.*?)</style>", template, flags=re.S)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    own = f"style-src 'sha256-{digest}'"
    return f"default-src 'none'; base-uri 'none'; form-action 'none'; {own}"
