"""Documents that name each other: one step of spreading activation over the candidates.

The passage that answers the first half of a question often names the document that answers the
second ("The film was directed by Ed Wood", and a document titled "Ed Wood"), which the question
itself does not. The leading passages lend half of their score to the candidates whose document's
title stands in their text, divided among the passages of that title, so that a long document is
not lifted as a whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

LEADING = 2
LENT = 0.5
MIN_TITLE_LEN = 4

_DISAMBIGUATION = re.compile(r"\s*\([^()]*\)\s*$")


def lend(
    scores: Mapping[str, float], titles: Mapping[str, str], leading: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """The scores of all candidates after lending. `titles` gives each candidate's document title;
    `leading` are the ids and texts of the best candidates."""
    bearers = defaultdict(list)
    for candidate, title in titles.items():
        bearers[named_as(title)].append(candidate)
    raised = dict(scores)
    for candidate, text in leading:
        own = named_as(titles[candidate])
        for name in _names_in(text, bearers.keys() - {own}):
            for bearer in bearers[name]:
                raised[bearer] += LENT * scores[candidate] / len(bearers[name])
    return raised


def named_as(title: str) -> str:
    """How running text would name a document: "Metallica (album)" is called "Metallica"."""
    return _DISAMBIGUATION.sub("", title)


def _names_in(text: str, names: set[str]) -> Iterator[str]:
    """Those names that stand in the text as whole words, in the same case."""
    for name in names:
        is_word = len(name) >= MIN_TITLE_LEN and name in text
        if is_word and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            yield name
