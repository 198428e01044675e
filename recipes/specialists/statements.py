"""Statements from questions and their answers, by rules that are few and keep the grammar right.

    "Who wrote Hamlet?", "Shakespeare"              Shakespeare wrote Hamlet.
    "What is the capital of Peru?", "Lima"          The capital of Peru is Lima.
    "What kind of bird is a kiwi?", "a ratite"      What kind of bird is a kiwi? A ratite.

Where a question would have to be turned around (did, a subject between two parts of a verb), it
stays as it is, with the answer behind it: that is how a short answer is checked, too.
"""

import re

BE = "is|are|was|were"
NOT_FIRST = "did|does|do|can|could|will|would|should|may|might|has|have|had|must"
SUBJECT = re.compile(rf"(?i)^who (?!(?:{NOT_FIRST}|{BE})\b)(?P<rest>\w+ .+)$")
PASSIVE = re.compile(rf"(?i)^who (?P<rest>(?:{BE}) (?:also |first |later )?\w+ed\b.*)$")
THING = re.compile(rf"(?i)^what (?!(?:{NOT_FIRST}|{BE})\b)(?P<rest>[a-z]+(?:ed|es) .+)$")
NAMED = re.compile(rf"(?i)^(?:who|what) (?P<be>{BE}) (?P<rest>(?:the|a|an|one of) .+)$")
CLAUSE = re.compile(r"(?i)\b(?:used|made|called|known|named|for|to|in|of|as|at|on|by|with|like)$")
SENTENCE_END = re.compile(r"(?<=[.!?][\"”)]|.[.!?])\s+(?=[\"“(]?[A-Z0-9])")
ABBREVIATED = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Dr|St|Jr|Sr|No|vs|ca|c|Inc|Ltd|Co|Gen|Col|Lt|Mt|Prof|Rev|Sen|U\.S))\.$"
)
SHORTEST, LONGEST = 5, 45
"""Words of a sentence that is taken for a statement."""


def statement(question: str, answer: str) -> str:
    """The question and its answer as one statement."""
    asked = question.strip().rstrip("?!. ").strip()
    for pattern in (PASSIVE, SUBJECT, THING):
        if found := pattern.match(asked):
            return sentence_of(f"{answer} {found['rest']}")
    found = NAMED.match(asked)
    if found and not CLAUSE.search(asked):
        return sentence_of(f"{found['rest']} {found['be'].lower()} {answer}")
    return f"{asked}? {sentence_of(answer)}"


def sentence_of(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def sentence_around(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Where the sentence stands that has the characters from `start` to `end`; None if they are
    not in one sentence, or it is too short or long to be said by itself."""
    ends = [
        match.start()
        for match in SENTENCE_END.finditer(text)
        if not ABBREVIATED.search(text[: match.start()])
    ]
    first = max((place for place in ends if place <= start), default=0)
    last = min((place for place in ends if place >= end), default=len(text))
    if any(first < place < last for place in ends):
        return None
    first += len(text[first:last]) - len(text[first:last].lstrip())
    is_usual = SHORTEST <= len(text[first:last].split()) <= LONGEST
    return (first, last) if is_usual else None
