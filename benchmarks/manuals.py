"""Whether the confidence fitted on Wikipedia holds on a manual: Python's language reference.

    python -m benchmarks.manuals [--json]

The documents are the topics that CPython carries for its `help()`. 24 questions are answered in
them: an answer counts if a quote has the words that a right one must have. 24 are not: half are
about everyday things, half about other software, the harder half. Nothing is fitted to these.
"""

import argparse
import json
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics

from benchmarks.hardware import describe

from pharos import Library

ANSWERABLE = {
    "What does the finally clause do?": "finally.* clause is (?:also )?executed|cleanup",
    "When is the else clause of a loop executed?": "exhausted|condition is false|is false",
    "What happens when a mutable object is a default parameter value?": "in effect modified",
    "How does the break statement work?": "terminates the nearest|enclosing loop|that loop",
    "What is the difference between is and == comparisons?": "identity",
    "What does the global statement mean?": "interpreted as globals|refer to globals",
    "Which exception is raised when an assert statement fails?": "AssertionError",
    "What should __hash__ return?": "integer",
    "What happens when a name is not found?": "NameError",
    "What does the nonlocal statement do?": "previously bound variables",
    "How do I raise an exception from another exception?": r"raise .* from|\"from\" clause",
    "What does a with statement do?": "wrap the execution of a block",
    "What is a lambda expression?": "anonymous|function object|shorthand",
    "Which operators have the lowest precedence?": "precedence",
    "How does the power operator bind relative to unary operators?": "binds more tightly",
    "Can a string literal be written with triple quotes?": "triple",
    "How does str.split behave when sep is not given?": "whitespace",
    "What does the del statement do to a name?": "binding|unbind",
    "When is the __del__ method called?": "destroyed",
    "Which objects are considered false?": "zero|empty",
    "What are imaginary literals?": "imaginary",
    "Which debugger command sets a breakpoint?": "break",
    "Are underscores allowed in integer literals?": "[Uu]nderscores are",
    "Which keyword begins an asynchronous function definition?": "async def",
}
UNANSWERABLE = (
    "What is the best recipe for lasagne?",
    "How long should I boil an ostrich egg?",
    "Who won the football world cup in 2014?",
    "What is the capital of Mongolia?",
    "What is the boiling point of ethanol?",
    "When was Napoleon born?",
    "How many moons does Jupiter have?",
    "What is the maximum speed of a cheetah?",
    "Which vitamins are in spinach?",
    "Who wrote the novel War and Peace?",
    "What causes ocean tides?",
    "What is our company's holiday policy?",
    "How do I configure nginx as a reverse proxy?",
    "How do I create an index in PostgreSQL?",
    "How do I train a neural network with dropout?",
    "How do I reset my e-mail password?",
    "How do I install Docker on Ubuntu?",
    "What does the Kubernetes scheduler do?",
    "How does the borrow checker of Rust work?",
    "How do goroutines communicate in Go?",
    "What does the MATCH_RECOGNIZE clause do in SQL?",
    "How do I declare a template specialization in C++?",
    "What is the monthly price of the premium plan?",
    "How do I file a tax return in Germany?",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """`right`: a quote has the words of a right answer; None where there is no right answer."""

    question: str
    answered: bool
    right: bool | None
    confidence: float
    milliseconds: float


def ask(library: Library, question: str, words: str | None) -> Asked:
    answer = library.ask(question)
    quotes = " ".join(" ".join(citation.quote.split()) for citation in answer.citations)
    return Asked(
        question=question,
        answered=not answer.abstained,
        right=None if words is None else bool(re.search(words, quotes)),
        confidence=round(answer.confidence, 3),
        milliseconds=round(answer.timings_ms["total"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers and abstentions on a manual.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pharos-manuals-") as scratch:
        folder = Path(scratch) / "topics"
        folder.mkdir()
        for name, text in topics.items():
            (folder / f"{name}.rst").write_text(text, encoding="utf-8")
        library = Library.open(Path(scratch) / "library")
        library.ingest([folder])
        answerable = [ask(library, question, words) for question, words in ANSWERABLE.items()]
        unanswerable = [ask(library, question, None) for question in UNANSWERABLE]
    times = sorted(asked.milliseconds for asked in answerable[1:] + unanswerable)
    summary = {
        "hardware": describe(),
        "answerable": len(answerable),
        "answered": sum(asked.answered for asked in answerable),
        "right": sum(asked.right or False for asked in answerable),
        "unanswerable": len(unanswerable),
        "abstained": sum(not asked.answered for asked in unanswerable),
        "median_ms": times[len(times) // 2],
    }
    if arguments.json:
        every = [asdict(asked) for asked in answerable + unanswerable]
        print(json.dumps({**summary, "questions": every}, indent=2))
        return
    for asked in answerable + unanswerable:
        verdict = {None: "", True: "right", False: "wrong"}[asked.right if asked.answered else None]
        said = "answered" if asked.answered else "abstained"
        print(f"{asked.confidence:.2f} {said:9} {verdict:5} {asked.question}")
    for name, value in summary.items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    main()
