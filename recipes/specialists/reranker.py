"""The re-ranker's examples: SQuAD's questions with a window that answers, and with windows that our
own search takes for ones that could.

    python -m recipes.specialists.reranker [--data DIR] [--out DIR] [--articles 160]

The paragraphs of some training articles become a library, and each question is searched for in it.
A question's negatives are passages that were found and do not hold its answer: two of the first,
one of those further down. Each is shown by the window that has most of the question's words, as the
program shows it.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from benchmarks.answer_quality import Remembering, library_of
from recipes.specialists.squad import (
    Articles,
    Asked,
    Measure,
    add_arguments,
    as_squad,
    holds,
    likeliest_window,
    split_articles,
    window_around,
    write_jsonl,
)

from pharos import Library
from pharos.specialists import load_encoder

TOKENS = 128
SPECIAL = 3
LONGEST_QUESTION = 40
FOUND = 20
FIRST = 4
"""Of the passages found, so many are the first ones."""
FIRSTS, FURTHER = 2, 1
"""Negatives of each kind."""
RELEVANT, IRRELEVANT = "relevant", "irrelevant"
VALIDATION_QUESTIONS = 500


def examples(
    articles: Articles, questions: int, measure: Measure, embedder: Remembering, seed: int
) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    chosen = draw.sample(articles.asked, min(questions, len(articles.asked)))
    embedder.embed([asked.question for asked in chosen])  # all at once: the search remembers them
    started = time.perf_counter()
    with library_of(as_squad(articles), embedder) as (library, _):
        for count, asked in enumerate(chosen, 1):
            yield from pairs(articles, asked, mined(library, asked), measure, draw)
            if count % 1000 == 0:
                print(f"{count:,} questions in {time.perf_counter() - started:.0f} s", flush=True)


def mined(library: Library, asked: Asked) -> list[str]:
    """What is found and does not hold the answer, best first."""
    hits = library.search(asked.question, k=FOUND)
    return [hit.passage.text for hit in hits if not holds(hit.passage.text, asked.answer)]


def pairs(
    articles: Articles,
    asked: Asked,
    found: Sequence[str],
    measure: Measure,
    draw: random.Random,
) -> Iterator[dict[str, Any]]:
    room = TOKENS - SPECIAL - min(measure.count(asked.question), LONGEST_QUESTION)
    context = articles.context(asked)
    start, end = window_around(measure.words(context), (asked.start, asked.end), room, draw)
    yield {"text": asked.question, "text_b": context[start:end], "label": RELEVANT}
    first, further = found[:FIRST], found[FIRST:]
    chosen = draw.sample(first, min(FIRSTS, len(first)))
    for passage in chosen + draw.sample(further, min(FURTHER, len(further))):
        start, end = likeliest_window(asked.question, passage, room, measure, articles.rarity)
        yield {"text": asked.question, "text_b": passage[start:end], "label": IRRELEVANT}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the re-ranker's examples.")
    add_arguments(parser)
    parser.add_argument("--articles", type=int, default=160)
    parser.add_argument("--questions", type=int, default=12_000)
    parser.add_argument("--pairs", type=int, default=32_000, help="at most so many in all")
    arguments = parser.parse_args()
    measure, embedder = Measure(), Remembering(load_encoder())
    trained, held_out = split_articles(arguments.data, arguments.seed)
    for name, articles, questions in (
        ("validation", held_out, VALIDATION_QUESTIONS),
        ("train", trained.first(arguments.articles), arguments.questions),
    ):
        made = examples(articles, questions, measure, embedder, arguments.seed)
        write_jsonl(arguments.out / f"reranker_{name}.jsonl", islice(made, arguments.pairs))


if __name__ == "__main__":
    main()
