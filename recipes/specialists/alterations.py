"""Changes that make a statement untrue: another name, number or date of the same kind, a negation,
an opposite."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NUMBERS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "fifteen", "twenty", "thirty", "forty", "fifty",
)  # fmt: skip
OPPOSITES = (
    ("first", "last"), ("north", "south"), ("northern", "southern"), ("east", "west"),
    ("eastern", "western"), ("before", "after"), ("more", "fewer"), ("higher", "lower"),
    ("largest", "smallest"), ("larger", "smaller"), ("increased", "decreased"), ("most", "least"),
    ("oldest", "newest"), ("early", "late"), ("always", "never"), ("above", "below"),
    ("won", "lost"), ("began", "ended"), ("highest", "lowest"), ("major", "minor"),
    ("allowed", "forbade"), ("supported", "opposed"), ("accepted", "rejected"), ("all", "none of"),
    ("longest", "shortest"), ("male", "female"), ("left", "right"), ("increase", "decrease"),
    ("majority", "minority"), ("with", "without"), ("strong", "weak"), ("high", "low"),
)  # fmt: skip
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
AUXILIARY = re.compile(
    r"\b(was|were|is|are|has|had|have|can|could|will|would|may|must|should)\b(?! not\b|n't)"
)
NEGATED = re.compile(r"\b(was|were|is|are|has|had|have|can|could|will|would|may|must|should) not\b")
PAST = re.compile(r"\b(?:did|does|do) not\b")
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w]|[.,]\d)")
NAME = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][\w'’-]+(?: (?:of |the |de |von |and )?[A-Z][\w'’-]+)*")
TITLE_WORDS = frozenset(MONTHS) | {"The", "In", "It", "He", "She", "This", "They", "A", "An", "I"}


@dataclass(frozen=True, slots=True)
class Alteration:
    """`old` becomes `new`, wherever it stands as whole words."""

    old: str
    new: str

    def of(self, text: str) -> str:
        return _whole(self.old).sub(lambda _: self.new, text)

    def concerns(self, text: str) -> bool:
        return bool(_whole(self.old).search(text))


def _whole(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


def kind_of(text: str) -> str:
    """What may stand in its place: another text of the same kind."""
    words = text.split()
    if re.fullmatch(r"\d{4}s?", text):
        return "year"
    if any(month in text for month in MONTHS):
        return "date"
    if re.search(r"\d", text) or (words and words[0].lower() in NUMBERS):
        return f"number of {min(len(words), 3)}"
    if words and sum(word[0].isupper() for word in words) * 2 >= len(words):
        return f"name of {min(len(words), 3)}"
    return f"words of {min(len(words), 4)}"


def names_in(text: str) -> list[str]:
    """Names inside a text; what begins a sentence may be no name, and is left out."""
    found = [match.group() for match in NAME.finditer(text)]
    return [name for name in found if not set(name.split()) & TITLE_WORDS]


def changed_number(text: str, draw: random.Random) -> str | None:
    """With one number that is another one, about as large; None if there is none."""
    found = list(NUMBER.finditer(text))
    words = [match for match in re.finditer(r"\b[a-z]+\b", text) if match.group() in NUMBERS]
    if not found and not words:
        return None
    match = draw.choice(found + words)
    old = match.group()
    new = _other_number(old, draw) if old[0].isdigit() else _other(old, NUMBERS, draw)
    return text[: match.start()] + new + text[match.end() :]


def _other_number(old: str, draw: random.Random) -> str:
    value = old.replace(",", "")
    if re.fullmatch(r"1\d{3}|20[0-2]\d", old):
        return str(int(old) + draw.choice((-1, 1)) * draw.choice((1, 2, 3, 5, 10, 20, 50, 100)))
    if "." in value:
        whole, _, rest = value.partition(".")
        return f"{max(0, int(whole) + draw.choice((-2, -1, 1, 2, 5, 10)))}.{rest}"
    number = int(value)
    near = [number + step for step in (1, 2, 3, 5, 10)] + [number * 2, number * 3]
    less = [number - step for step in (1, 2, 5) if number > step]
    other = draw.choice(near + less + [number * 10] if number else [1, 2, 3])
    return f"{other:,}" if "," in old else str(other)


def _other(old: str, all_: Sequence[str], draw: random.Random) -> str:
    return draw.choice([each for each in all_ if each != old])


def changed_month(text: str, draw: random.Random) -> str | None:
    found = [month for month in MONTHS if re.search(rf"\b{month}\b", text) and month != "May"]
    if not found:
        return None
    old = draw.choice(found)
    return Alteration(old, _other(old, MONTHS, draw)).of(text)


def negated(sentence: str, draw: random.Random) -> str | None:
    """With a "not" more or, if there is one, less; None if there is no place for it."""
    if found := NEGATED.search(sentence):
        return sentence[: found.start()] + found[1] + sentence[found.end() :]
    if PAST.search(sentence):
        return None
    found = AUXILIARY.search(sentence)
    if found is None:
        return None
    is_past = found[1] in ("was", "were", "had", "could", "would")
    word = "never" if is_past and draw.random() < 0.3 else "not"
    return f"{sentence[: found.end()]} {word}{sentence[found.end() :]}"


def opposite(sentence: str, draw: random.Random) -> str | None:
    """With one word that is its opposite."""
    found = [m for m in re.finditer(r"\b[a-z]+\b", sentence) if m.group() in OPPOSITE]
    if not found:
        return None
    match = draw.choice(found)
    return sentence[: match.start()] + OPPOSITE[match.group()] + sentence[match.end() :]


Change = Callable[[str, random.Random], str | None]
CHANGES: tuple[Change, ...] = (negated, opposite, changed_number, changed_month)
