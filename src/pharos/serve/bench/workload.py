"""What an endpoint is asked under load: made up, or from a file.

Made-up prompts are rows of common words, each of which most vocabularies have as one token; how
many tokens they really were, the endpoint tells. A seed gives the same prompts again. Then they
are in its prefix cache, and what is measured is that: for figures without it, take a new seed.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

COMMON = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
)
WORDS = tuple(COMMON.split())


class Span(NamedTuple):
    """From `low` to `high`, each as likely."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> "Span":
        """`100:1000`, or `128` for always the same. Raises ValueError for anything else."""
        low, _, high = text.partition(":")
        if not (low.isdecimal() and (high or low).isdecimal()):
            raise ValueError(f"'{text}' is not a number or a span; write 128 or 100:1000")
        span = cls(int(low), int(high or low))
        if not 1 <= span.low <= span.high:
            raise ValueError(f"'{text}' must begin at 1 or above, and not end before it begins")
        return span

    def draw(self, random_: random.Random) -> int:
        return random_.randint(self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    text: str
    max_tokens: int


def random_prompts(*, words: Span, output: Span, seed: int) -> Iterator[Prompt]:
    """Prompts without end that have nothing in common."""
    random_ = random.Random(seed)
    while True:
        yield Prompt(text=_text(words.draw(random_), random_), max_tokens=output.draw(random_))


def shared_prompts(
    *, num_prefixes: int, prefix: Span, words: Span, output: Span, seed: int
) -> Iterator[Prompt]:
    """Prompts without end that take turns to begin with one of `num_prefixes` texts, as those of
    applications do, and go on with words of their own."""
    random_ = random.Random(seed)
    prefixes = [_text(prefix.draw(random_), random_) for _ in range(num_prefixes)]
    for beginning in cycle(prefixes):
        text = f"{beginning}\n\n{_text(words.draw(random_), random_)}"
        yield Prompt(text=text, max_tokens=output.draw(random_))


def file_prompts(path: Path, *, output: Span, seed: int) -> Iterator[Prompt]:
    """The prompts of a file of JSON lines, over and over: `{"prompt": …}`, with `max_tokens` if it
    is to be another number than drawn from `output`. Raises ValueError, naming the line."""
    random_ = random.Random(seed)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    records = [_record(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    if not records:
        raise ValueError(f'{path} has no prompts; each line is an object like {{"prompt": "…"}}')
    for record in cycle(records):
        max_tokens = record.get("max_tokens", output.draw(random_))
        yield Prompt(text=record["prompt"], max_tokens=max_tokens)


def _text(num_words: int, random_: random.Random) -> str:
    return " ".join(random_.choice(WORDS) for _ in range(num_words))


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise ValueError(f'{where} has no text in "prompt"; write {{"prompt": "…"}}')
    max_tokens = record.get("max_tokens", 1)
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(f"{where}: max_tokens is {max_tokens!r}; it must be at least 1")
    return record
