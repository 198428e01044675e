"""How a measurement of an endpoint looks: as a table, and as a page with charts."""

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from pharos.cli.plan_tables import print_title, table_of
from pharos.cli.terminal import note, one_line, results, shown_path
from pharos.serve.bench import Distribution, LoadReport
from pharos.train.charts import Series, chart

LONGEST_DELAY_MS = 50.0
STYLE = """
:root { color-scheme: light dark; --p50: #1f78b4; --p95: #b9a88c; --p99: #c2570c; }
body { max-width: 60rem; margin: 3rem auto; padding: 0 1rem; line-height: 1.5;
  font-family: Charter, "Iowan Old Style", Cambria, Georgia, serif; }
h1, h2 { font-weight: 500; } h1 { overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.p50 { stroke: var(--p50); color: var(--p50); } .p95 { stroke: var(--p95); color: var(--p95); }
.p99 { stroke: var(--p99); color: var(--p99); } .dot { fill: currentColor; }
.grid { stroke: #8884; } .axis { fill: #888; font-size: 12px; }
"""


def print_reports(reports: Sequence[LoadReport], *, title: str, seed: int) -> None:
    print_title(one_line(title))
    table = table_of(
        "users" if reports[0].rate is None else "requests/s",
        "done/s",
        "tokens/s",
        "and read",
        "TTFT P50",
        "P95",
        "P99",
        "TPOT P50",
        "P95",
        "P99",
        "ITL P50",
        "P95",
        "P99",
        "failed",
    )
    for report in reports:
        table.add_row(
            f"{report.level:g}",
            f"{report.request_throughput:.3g}",
            f"{report.output_throughput:,.1f}",
            f"{report.total_throughput:,.1f}",
            *_milliseconds(report.ttft_ms),
            *_milliseconds(report.tpot_ms),
            *_milliseconds(report.itl_ms),
            str(report.num_failed),
        )
    results().print(table)
    results().print(Text(f"Times are in milliseconds. The prompts' seed is {seed}."))
    for remark in _remarks(reports):
        note(remark)


def write_page(reports: Sequence[LoadReport], path: Path, *, title: str) -> None:
    """A page of its own, that loads nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    sections = "".join(f"<h2>{name}</h2>{drawn}" for name, drawn in _charts(reports))
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{sections}</body></html>\n",
        encoding="utf-8",
    )
    note(f"wrote {shown_path(path)}")


def _charts(reports: Sequence[LoadReport]) -> list[tuple[str, str]]:
    load = "users" if reports[0].rate is None else "requests a second"
    written = [(report.level, report.output_throughput) for report in reports]
    throughput = [Series(label="tokens a second", points=written, style="p50", has_dots=True)]
    first = _percentiles([(report.level, report.ttft_ms) for report in reports])
    each = _percentiles([(report.level, report.tpot_ms) for report in reports])
    drawn = [
        (f"Tokens written a second, by {load}", throughput),
        (f"Milliseconds to the first token, by {load}: P50, P95, P99", first),
        (f"Milliseconds for each further token, by {load}: P50, P95, P99", each),
    ]
    return [(name, chart(s, title=name, from_zero=True, x_name=load)) for name, s in drawn]


def _percentiles(levels: Sequence[tuple[float, Distribution | None]]) -> list[Series]:
    return [
        Series(
            label=name.upper(),
            points=[(level, getattr(of, name)) for level, of in levels if of is not None],
            style=name,
            has_dots=True,
        )
        for name in ("p50", "p95", "p99")
    ]


def _milliseconds(of: Distribution | None) -> tuple[str, str, str]:
    if of is None:
        return "–", "–", "–"
    return f"{of.p50:,.1f}", f"{of.p95:,.1f}", f"{of.p99:,.1f}"


def _remarks(reports: Sequence[LoadReport]) -> list[str]:
    """What a reader of the figures should know."""
    remarks = []
    if not all(report.is_counted for report in reports):
        remarks.append(
            "the endpoint does not tell how many tokens it wrote: each piece of text counts as one"
        )
    delays = [report.send_delay_ms.p99 for report in reports if report.send_delay_ms is not None]
    if max(delays) > LONGEST_DELAY_MS:
        remarks.append(
            f"requests left this client up to {max(delays):,.0f} ms late (P99): measure from a "
            "machine that has time for it"
        )
    for report in reports:
        for reason, count in report.failures.items():
            remarks.append(f"at {report.level:g}, {count} failed: {one_line(reason)}")
    return remarks
