"""What each specialist said on the way to an answer: tables on stderr, an object in JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pharos.cli.rendering import excerpt, position
from pharos.cli.terminal import messages, shown_path
from pharos.core import Hit, Span
from pharos.core.findings import Checked, Explanation

MOST_CANDIDATES = 10


def print_explanation(explanation: Explanation) -> None:
    """Nothing is printed for a specialist that was not asked."""
    console = messages()
    for part in _parts(explanation):
        console.print(part)


def explanation_object(explanation: Explanation) -> dict[str, Any]:
    """What `--explain` adds to `--json`; a specialist that was not asked is null, or empty."""
    reading = explanation.reading
    return {
        "candidates": [
            {**_place_object(hit), "score": hit.score, "scores": dict(hit.scores)}
            for hit in explanation.candidates
        ],
        "answerable": None if reading is None else reading.answerable,
        "spans": [
            {
                "document": span.passage.source,
                "start": span.passage.start + span.start,
                "end": span.passage.start + span.end,
                "text": span.text,
                "score": span.score,
            }
            for span in (reading.spans if reading else ())
        ],
        "grounding": [
            {
                "statement": one.statement,
                "evidence": one.evidence,
                "verdict": one.grounding.verdict,
                "supported": one.grounding.supported,
                "contradicted": one.grounding.contradicted,
            }
            for one in explanation.checked
        ],
        "risks": _risk_objects(explanation),
    }


def _parts(explanation: Explanation) -> Iterable[RenderableType]:
    ranked = [hit for hit in explanation.candidates if "rerank" in hit.scores]
    if ranked:
        yield _candidates(ranked)
    if explanation.reading is not None:
        yield Text(f"\nThere is an answer: {explanation.reading.answerable:.3f}")
        yield _spans(explanation.reading.spans)
    if explanation.checked:
        yield _groundings(explanation.checked)
    if explanation.risks:
        yield _risks(explanation)


def _candidates(hits: Sequence[Hit]) -> Table:
    table = _table("re-ranked", "before", "search", "relevance", "passage")
    for rank, hit in enumerate(hits[:MOST_CANDIDATES], start=1):
        scores = hit.scores
        before = f"{scores['search_rank']:.0f}"
        numbers = (str(rank), before, f"{scores['search']:.4f}", f"{scores['rerank']:.3f}")
        table.add_row(*numbers, _where(hit))
    return table


def _spans(spans: Sequence[Span]) -> Table:
    table = _table("score", "short answer", "passage")
    for span in spans:
        where = f"{shown_path(span.passage.source)}, character {span.passage.start + span.start}"
        table.add_row(f"{span.score:.3f}", Text(excerpt(span.text, 60)), Text(where))
    return table


def _groundings(checked: Sequence[Checked]) -> Table:
    table = _table("borne out", "yes", "contradicts", "statement", "evidence")
    for one in checked:
        grounding = one.grounding
        numbers = (f"{grounding.supported:.3f}", f"{grounding.contradicted:.3f}")
        texts = (Text(excerpt(text, 60)) for text in (one.statement, one.evidence))
        table.add_row(grounding.verdict, *numbers, *texts)
    return table


def _risks(explanation: Explanation) -> Table:
    table = _table("tries to steer", "text")
    for one in _risk_objects(explanation):
        table.add_row(f"{one['risk']:.3f}", Text(_name(one)))
    return table


def _risk_objects(explanation: Explanation) -> list[dict[str, Any]]:
    """The question's is the one whose document is null."""
    places = {hit.passage.id: _place_object(hit) for hit in explanation.candidates}
    nowhere = {"document": None, "start": None, "end": None}
    return [{**places.get(id_, nowhere), "risk": risk} for id_, risk in explanation.risks.items()]


def _name(risk: Mapping[str, Any]) -> str:
    if risk["document"] is None:
        return "the question"
    return f"{shown_path(risk['document'])}, {position(None, risk['start'], risk['end'])}"


def _place_object(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    return {"document": passage.source, "start": passage.start, "end": passage.end}


def _where(hit: Hit) -> Text:
    passage = hit.passage
    where = position(passage.page, passage.start, passage.end)
    return Text(f"{shown_path(passage.source)}, {where}")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name)
    return table
