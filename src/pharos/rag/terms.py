"""The words that matter in a text: lower case, stemmed a little, function words left out.

The stemmer only undoes plurals and the commonest verb endings (after Harman 1991, "How effective
is suffixing?"): enough that "creates" meets "creating", rarely so much that two words meet that
should not.
"""

import functools
import re

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after again all also am an and another any are as at be because been before
        being between both but by can cannot could d did do does doing done during each either
        else ever every few for from further get had has have having he her here hers him his how
        however i if in into is it its itself just ll many may me might more most much must my
        neither no nor not of off on once one only or other our out over own per re s same shall
        she should so some such t than that the their them then there these they this those
        through thus to too under until up upon us used using ve very was we were what when where
        whether which while who whom whose why will with within without would yet you your""",
    )
)
_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")
CODE_SPAN = re.compile(r"`[^`\n]+`")
_NAME = re.compile(
    r"(?<=[\w,;:] )[\"“(]?[A-Z][\w.'’-]*\w"  # capitalised, but not because a sentence begins
    r"|\b[A-Z]*+[a-z\d_]++[A-Z]\w*"  # camelCase
)
_LONGEST_WORD = 40  # what is longer is no word, and would fill the cache of stems
_VOWEL = re.compile(r"[aeiouy]")
_SIBILANT = ("s", "x", "z", "ch", "sh")


def terms(text: str) -> list[str]:
    """The stems of the content words and numbers of `text`, in order, repeats kept."""
    words = (word.replace(",", "") for word in _WORD.findall(text.casefold()))
    return [
        stem(word) if len(word) <= _LONGEST_WORD else word
        for word in words
        if word not in FUNCTION_WORDS
    ]


def names_of(text: str) -> set[str]:
    """The terms of `text` that cannot be said in other words: names, and code between backticks.
    A name that begins a sentence is not told from another word."""
    found = [*_NAME.findall(text), *CODE_SPAN.findall(text)]
    return {term for name in found for term in terms(name) if len(term) > 1}


def unmentioned(names: set[str], text: str) -> set[str]:
    """Those of `names` that `text` does not have, not even inflected."""
    said = frozenset(terms(text))
    return {name for name in names - said if not any(_inflected(name, term) for term in said)}


@functools.lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """`word` (lower case) without its plural, `-ed` or `-ing` ending and without a last `e`."""
    if len(word) <= 3 or not word.isalpha():
        return word
    bare = _without_verb_ending(_without_plural(word))
    return bare[:-1] if bare.endswith("e") and len(bare) > 3 else bare


def _without_plural(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("es") and word[:-2].endswith(_SIBILANT):
        return word[:-2]
    return word[:-1] if word.endswith("s") and word[-2] not in "sui" else word


def _without_verb_ending(word: str) -> str:
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) >= 3 and _VOWEL.search(root):
            doubled = root[-1] == root[-2] and root[-1] not in "aeiouslz"
            return root[:-1] if doubled else root
    return word


def _inflected(name: str, term: str) -> bool:
    """Canada and Canadian, but not Austria and Australia: all but the shorter one's last letter."""
    shared = max(4, min(len(name), len(term)) - 1)
    return name.isalpha() and len(term) >= 4 and name[:shared] == term[:shared]
