"""SQuAD's exact match and F1 (Rajpurkar et al. 2016, arXiv:1606.05250), as its own script has them.

    python -m benchmarks.squad_scores [--data DIR]

scores the predictions of published systems that lie beside the set, whose figures are known.
"""

import argparse
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.datasets import add_data_argument, squad_articles

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalised(answer: str) -> str:
    """Without case, punctuation and articles."""
    return " ".join(ARTICLE.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(said: str, answer: str) -> float:
    return float(normalised(said) == normalised(answer))


def f1(said: str, answer: str) -> float:
    """The harmonic mean of precision and recall of the words."""
    ours, theirs = normalised(said).split(), normalised(answer).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def best(score: Callable[[str, str], float], said: str, answers: Sequence[str]) -> float:
    """Of several right answers, the one that is nearest counts."""
    return max(score(said, answer) for answer in answers)


def known_answers(data: Path) -> dict[str, list[str]]:
    """By a question's id, its answers."""
    return {
        qa["id"]: [answer["text"] for answer in qa["answers"]]
        for article in squad_articles(data)
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }


def predictions(data: Path, system: str) -> dict[str, str]:
    """What a published system said, by a question's id."""
    path = data / "squad" / f"pred-dev-v1.1-{system}.json"
    said: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description="SQuAD's figures of published predictions.")
    add_data_argument(parser)
    data = parser.parse_args().data
    known = known_answers(data)
    for path in sorted((data / "squad").glob("pred-dev-v1.1-*.json")):
        system = path.stem.removeprefix("pred-dev-v1.1-")
        said = predictions(data, system)
        both = [(said.get(id_, ""), answers) for id_, answers in known.items()]
        exact, overlap = (
            100 * sum(best(score, *pair) for pair in both) / len(both)
            for score in (exact_match, f1)
        )
        print(f"{system:22} exact match {exact:.2f}, F1 {overlap:.2f}, {len(both):,} questions")


if __name__ == "__main__":
    main()
