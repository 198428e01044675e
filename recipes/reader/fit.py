"""Fit the weights of the extractive reader on SQuAD's training paragraphs, and print them.

    python -m recipes.reader.fit [--data DIR] [--articles 40] [--questions 2500]

Two steps. First the proportions: the weights that make a sentence with the answer, in the paragraph
that was asked about, the most likely choice among the sentences of ten passages (a softmax over
each question's sentences). Then the scale and the bias, from a third of questions more that have
their paragraph left out, so that a sentence's score is the probability that it answers. The
rounded result is `pharos.rag.reader.Weights`; data: SQuAD v1.1 train, CC BY-SA 4.0.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.answer_quality import (
    Array,
    Question,
    Remembering,
    contains_answer,
    draw_questions,
    found_for,
    library_of,
)
from benchmarks.datasets import add_data_argument, squad_articles
from numpy.typing import NDArray
from recipes.confidence.fit import LEFT_OUT, fit_logistic

from pharos import Library
from pharos.rag.reader import lexical_clues, quoted, sentences_of
from pharos.specialists import load_encoder

NAMES = ("coverage", "nearby", "passage_coverage", "passage_cosine", "number", "time", "cosine")
RIDGE = 2e-3
STEPS = 200
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Choice:
    """One question: the clues of each sentence that could answer, and which do."""

    clues: Array
    answers: NDArray[np.bool_]


def choice_for(library: Library, embedder: Remembering, question: Question) -> Choice:
    hits = found_for(library, question)
    sentences = sentences_of(hits)
    clues = lexical_clues(question.text, hits, sentences)
    able = [i for i, sentence in enumerate(sentences) if sentence.can_answer]
    texts = [quoted(hits, sentences[i]) for i in able]
    vectors = embedder.embed([question.text, *texts])
    answers = [
        hits[sentences[i].hit].passage.source == question.source
        and contains_answer(text, question.answers)
        for i, text in zip(able, texts, strict=True)
    ]
    return Choice(np.c_[clues[able], vectors[1:] @ vectors[0]], np.array(answers, dtype=np.bool_))


def fit_proportions(choices: Sequence[Choice]) -> Array:
    """Weights that maximise the share of each question's softmax that falls on its answers, by
    gradient ascent with momentum on the standardised clues."""
    spread = np.concatenate([choice.clues for choice in choices]).std(axis=0)
    answerable = [choice for choice in choices if choice.answers.any()]
    weights = np.zeros(len(NAMES))
    velocity = np.zeros(len(NAMES))
    for _ in range(STEPS):
        gradient = -RIDGE * weights
        for choice in answerable:
            scores = choice.clues / spread @ weights
            pull = _softmax(np.where(choice.answers, scores, -np.inf)) - _softmax(scores)
            gradient += pull @ choice.clues / spread / len(answerable)
        velocity = MOMENTUM * velocity + gradient
        weights = weights + velocity
    proportions: Array = weights / spread
    return proportions


def _softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max())
    shares: Array = exponentials / exponentials.sum()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the extractive reader on SQuAD train.")
    add_data_argument(parser)
    parser.add_argument("--articles", type=int, default=40)
    parser.add_argument("--questions", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    articles = squad_articles(arguments.data, "train")
    random.Random(arguments.seed).shuffle(articles)
    embedder = Remembering(load_encoder())
    with library_of(articles[: arguments.articles], embedder) as (library, paragraphs):
        asked = draw_questions(paragraphs, arguments.questions, LEFT_OUT, arguments.seed)
        choices = [choice_for(library, embedder, question) for question in asked]
    proportions = fit_proportions(choices)
    scores = np.concatenate([choice.clues for choice in choices]) @ proportions
    scale, bias = fit_logistic(scores[:, None], np.concatenate([c.answers for c in choices]))
    for name, weight in zip(NAMES, proportions * scale, strict=True):
        print(f"{name:18} {weight:6.2f}")
    print(f"{'bias':18} {bias:6.2f}")
    firsts = [c.answers[np.argmax(c.clues @ proportions)] for c in choices if c.answers.any()]
    print(f"the first sentence answers {np.mean(firsts):.3f} of {len(firsts)} fitted questions")


if __name__ == "__main__":
    main()
