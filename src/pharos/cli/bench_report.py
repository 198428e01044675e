"""How a measurement of an endpoint looks: as a table, and as a page with charts."""

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from pharos.cli.plan_tables import print_title, table_of
from pharos.cli.terminal import note, one_line, results, shown_path
from pharos.serve.bench import Distribution, LoadReport, Saturation, saturation
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
    is_open = reports[0].rate is not None
    table = table_of(
        *(("requests/s", "answered/s", "keeps up") if is_open else ("users", "done/s")),
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
            *_pace(report),
            f"{report.output_throughput:,.1f}",
            f"{report.total_throughput:,.1f}",
            *_milliseconds(report.ttft_ms),
            *_milliseconds(report.tpot_ms),
            *_milliseconds(report.itl_ms),
            str(report.num_failed),
        )
    results().print(table)
    for sentence in verdict(reports):
        results().print(Text(sentence))
    results().print(Text(f"Times are in milliseconds. The prompts' seed is {seed}."))
    for remark in _remarks(reports):
        note(remark)


def write_page(reports: Sequence[LoadReport], path: Path, *, title: str) -> None:
    """A page of its own, that loads nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    verdicts = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in verdict(reports))
    sections = verdicts + "".join(f"<h2>{name}</h2>{drawn}" for name, drawn in _charts(reports))
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{sections}</body></html>\n",
        encoding="utf-8",
    )
    note(f"wrote {shown_path(path)}")


def verdict(reports: Sequence[LoadReport]) -> list[str]:
    """What the levels say of how much the endpoint can do; nothing, if they say nothing."""
    last, found = reports[-1], saturation(reports)
    if last.pace is None:
        return _verdict_of_users(reports, found)
    if found is None:
        sentences = [f"It keeps up with {last.level:g} requests a second."]
    else:
        kept = "" if found.before is None else f"It keeps up with {found.before:g}. "
        sentences = [
            f"{kept}It does not keep up with {found.level:g} requests a second: it answers "
            f"{found.requests_per_s:.3g}, and {last.pace.num_under_way} of {last.num_requests} "
            "were under way when the last came."
        ]
    if not last.pace.is_certain:
        sentences.append(
            "They came in less time than one takes: for a sure answer, give more --requests."
        )
    return sentences


def _verdict_of_users(reports: Sequence[LoadReport], found: Saturation | None) -> list[str]:
    if found is not None:
        return [
            f"{found.level:g} users get no more out of it than {found.before:g}: "
            f"{max(report.output_throughput for report in reports):,.1f} tokens a second."
        ]
    return [f"It has more for more than {reports[-1].level:g} users."] if len(reports) > 1 else []


def _pace(report: LoadReport) -> list[str]:
    if report.pace is None:
        return [f"{report.request_throughput:.3g}"]
    return [f"{report.pace.achieved:.3g}", "yes" if report.pace.keeps_up else "no"]


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
    if reports[0].rate is not None:
        drawn.insert(0, ("Requests a second: answered, beside those that came", _paces(reports)))
    return [(name, chart(s, title=name, from_zero=True, x_name=load)) for name, s in drawn]


def _paces(reports: Sequence[LoadReport]) -> list[Series]:
    paces = [(report.level, report.pace) for report in reports if report.pace is not None]
    answered = [(level, pace.achieved) for level, pace in paces]
    came = [(level, pace.offered) for level, pace in paces]
    return [
        Series(label="came", points=came, style="p95"),
        Series(label="answered", points=answered, style="p50", has_dots=True),
    ]


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
