"""Answers quoted from SQuAD's paragraphs: how many contain the answer, and what abstention costs.

    python -m benchmarks.answers [--data DIR] [--questions 2000] [--svg FILE] [--json]

Every paragraph of the set is a document of one library (2,067 for dev). Half of the questions are
asked of the whole library, half with their own paragraph left out: those should be abstained from,
and whatever is answered counts as wrong, although the paragraphs beside it are about the same
thing. No language model takes part.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from benchmarks.answer_quality import (
    Array,
    Question,
    Remembering,
    auroc,
    calibration_error,
    contains_answer,
    draw_questions,
    found_for,
    library_of,
    risk_coverage,
)
from benchmarks.datasets import add_data_argument, squad_articles
from benchmarks.hardware import describe
from numpy.typing import NDArray

from pharos import Library
from pharos.core import Answer, Place
from pharos.rag.answer import answer_question
from pharos.rag.confidence import default_calibration
from pharos.rag.reader import ExtractiveReader
from pharos.specialists import load_encoder

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    left_out: bool
    confidence: float
    right: bool
    quotes: int
    characters: int


@dataclass(frozen=True, slots=True)
class Report:
    """Shares are of the questions whose paragraph is there (`present`) or `left_out`."""

    questions: int
    contains_answer_if_all_answered: float
    threshold: float
    present_answered: float
    present_answered_contains_answer: float
    left_out_abstained: float
    auroc: float
    auroc_present_or_left_out: float
    calibration_error: float
    quotes_per_answer: float
    characters_per_answer: float
    risk_at_coverage: dict[str, float]


def ask_all(
    library: Library, embedder: Remembering, questions: Sequence[Question]
) -> list[Outcome]:
    reader = ExtractiveReader(embedder)
    outcomes = []
    for question in questions:
        answer = answer_question(
            question.text,
            found_for(library, question),
            reader=reader,
            embedder=embedder,
            place_of=lambda document_id, offset: Place(),
            threshold=0.0,
        )
        outcomes.append(judged(answer, question))
    return outcomes


def judged(answer: Answer, question: Question) -> Outcome:
    quotes = [citation.quote for citation in answer.citations]
    right = not question.left_out and contains_answer("\n".join(quotes), question.answers)
    return Outcome(
        left_out=question.left_out,
        confidence=answer.confidence,
        right=right,
        quotes=len(quotes),
        characters=sum(map(len, quotes)),
    )


def summarise(outcomes: Sequence[Outcome], threshold: float) -> Report:
    confidence = np.array([outcome.confidence for outcome in outcomes])
    right = np.array([outcome.right for outcome in outcomes])
    present = np.array([not outcome.left_out for outcome in outcomes])
    answered = confidence >= threshold
    return Report(
        questions=len(outcomes),
        contains_answer_if_all_answered=_share(right[present]),
        threshold=threshold,
        present_answered=_share(answered[present]),
        present_answered_contains_answer=_share(right[present & answered]),
        left_out_abstained=_share(~answered[~present]),
        auroc=round(auroc(confidence, right), 3),
        auroc_present_or_left_out=round(auroc(confidence, present), 3),
        calibration_error=round(calibration_error(confidence, right), 3),
        quotes_per_answer=round(float(np.mean([outcome.quotes for outcome in outcomes])), 2),
        characters_per_answer=round(float(np.mean([outcome.characters for outcome in outcomes]))),
        risk_at_coverage=_at_coverages(confidence, right),
    )


def print_report(report: Report) -> None:
    print(f"hardware: {describe()}")
    for name, value in asdict(report).items():
        if name != "risk_at_coverage":
            print(f"{name.replace('_', ' '):34} {value}")
    print("\ncoverage   risk (share of the answered that is wrong or should not be answered)")
    for coverage, risk in report.risk_at_coverage.items():
        print(f"{coverage:>8}   {risk:5.3f} {'█' * round(risk * 60)}")


def write_svg(outcomes: Sequence[Outcome], path: Path) -> None:
    """The risk-coverage curve as a picture; the dashed line is the risk of answering everything."""
    confidence = np.array([outcome.confidence for outcome in outcomes])
    right = np.array([outcome.right for outcome in outcomes])
    curve = list(risk_coverage(confidence, right))[len(outcomes) // 50 :]
    points = " ".join(f"{50 + 400 * x:.1f},{260 - 400 * y:.1f}" for x, y in curve)
    everything = 260 - 400 * curve[-1][1]
    labels = "".join(
        f'<text x="{50 + 400 * x:.0f}" y="278" text-anchor="middle">{x:.1f}</text>'
        f'<text x="44" y="{264 - 400 * x:.0f}" text-anchor="end">{x:.1f}</text>'
        for x in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    )
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -150 480 450" font-size="11" '
        'font-family="sans-serif"><rect y="-150" width="480" height="450" fill="white"/>'
        f'<path d="M50 -140V260H450" fill="none" stroke="black"/>{labels}'
        f'<path d="M50 {everything:.1f}H450" stroke="gray" stroke-dasharray="4"/>'
        f'<polyline points="{points}" fill="none" stroke="#0060c0" stroke-width="2"/>'
        '<text x="250" y="295" text-anchor="middle">coverage: share answered</text>'
        '<text x="60" y="-130">risk: share of the answered that is wrong</text></svg>\n',
        encoding="utf-8",
    )


def _share(of: NDArray[np.bool_]) -> float:
    return round(float(of.mean()), 3) if len(of) else float("nan")


def _at_coverages(confidence: Array, right: NDArray[np.bool_]) -> dict[str, float]:
    curve = list(risk_coverage(confidence, right))
    return {f"{c:.1f}": round(curve[max(1, round(c * len(curve))) - 1][1], 3) for c in COVERAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality and calibration of quoted answers.")
    add_data_argument(parser)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--svg", type=Path, help="also draw the risk-coverage curve")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    embedder = Remembering(load_encoder())
    with library_of(squad_articles(arguments.data), embedder) as (library, paragraphs):
        questions = draw_questions(paragraphs, arguments.questions, 0.5, arguments.seed)
        started = time.perf_counter()
        outcomes = ask_all(library, embedder, questions)
        each_ms = (time.perf_counter() - started) * 1000 / len(questions)
        print(f"{each_ms:.0f} ms a question, sentences embedded once", file=sys.stderr)
    summary = summarise(outcomes, default_calibration().threshold)
    if arguments.svg:
        write_svg(outcomes, arguments.svg)
    if arguments.json:
        print(json.dumps({"hardware": describe(), **asdict(summary)}, indent=2))
    else:
        print_report(summary)


if __name__ == "__main__":
    main()
