"""The reader's examples: SQuAD's questions with a window of their paragraph, and with windows that
do not hold the answer.

    python -m recipes.specialists.reader [--data DIR] [--out DIR]

A pair has at most `TOKENS` tokens, so a run reads nearly no padding: the answer stands anywhere in
its window. A fifth of the examples has no answer: the window is another one of the same paragraph,
or of the paragraph of the same article that has most of the question's words. A reader that goes
through a long text in windows meets both.
"""

import argparse
import random
from collections.abc import Iterator
from typing import Any

from recipes.specialists.squad import (
    Articles,
    Asked,
    Measure,
    add_arguments,
    any_window,
    holds,
    overlap,
    split_articles,
    window_around,
    write_jsonl,
)

TOKENS = 128
SPECIAL = 3
LONGEST_QUESTION = 40
UNANSWERABLE = 0.25
"""For each answered example, so many without an answer."""
SAME_PARAGRAPH = 0.4
"""The share of them that comes from the question's own paragraph."""
NEIGHBOURS = 4
TRIES = 6
VALIDATION = 1500


def examples(articles: Articles, measure: Measure, seed: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    for asked in articles.asked:
        room = TOKENS - SPECIAL - min(measure.count(asked.question), LONGEST_QUESTION)
        yield answered(articles, asked, measure, room, draw)
        if draw.random() < UNANSWERABLE:
            context = without_answer(articles, asked, measure, room, draw)
            if context is not None:
                yield {"question": asked.question, "context": context, "answer": None}


def answered(
    articles: Articles, asked: Asked, measure: Measure, room: int, draw: random.Random
) -> dict[str, Any]:
    context = articles.context(asked)
    start, end = window_around(measure.words(context), (asked.start, asked.end), room, draw)
    return {
        "question": asked.question,
        "context": context[start:end],
        "answer": asked.answer,
        "answer_start": asked.start - start,
    }


def without_answer(
    articles: Articles, asked: Asked, measure: Measure, room: int, draw: random.Random
) -> str | None:
    """A window that could be taken for one with the answer; None if none is found."""
    contexts = neighbours(articles, asked)
    if draw.random() < SAME_PARAGRAPH and measure.words(articles.context(asked)).num_tokens > room:
        contexts = [articles.context(asked)]
    if not contexts:
        return None
    for _ in range(TRIES):
        context = draw.choice(contexts)
        start, end = any_window(measure.words(context), room, draw)
        if not holds(context[start:end], asked.answer):
            return context[start:end]
    return None


def neighbours(articles: Articles, asked: Asked) -> list[str]:
    """The other paragraphs of the article that have most of the question's words."""
    others = [
        context
        for number, context in enumerate(articles.paragraphs[asked.article])
        if number != asked.number
    ]
    others.sort(key=lambda context: -overlap(asked.question, context, articles.rarity))
    return others[:NEIGHBOURS]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the reader's examples.")
    add_arguments(parser)
    arguments = parser.parse_args()
    measure = Measure()
    trained, held_out = split_articles(arguments.data, arguments.seed)
    write_jsonl(arguments.out / "reader_train.jsonl", examples(trained, measure, arguments.seed))
    validation = list(examples(held_out, measure, arguments.seed))
    random.Random(arguments.seed).shuffle(validation)
    write_jsonl(arguments.out / "reader_validation.jsonl", validation[:VALIDATION])


if __name__ == "__main__":
    main()
