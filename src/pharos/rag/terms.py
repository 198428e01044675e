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
_VOWEL = re.compile(r"[aeiouy]")
_SIBILANT = ("s", "x", "z", "ch", "sh")


def terms(text: str) -> list[str]:
    """The stems of the content words and numbers of `text`, in order, repeats kept."""
    words = (word.replace(",", "") for word in _WORD.findall(text.casefold()))
    return [stem(word) for word in words if word not in FUNCTION_WORDS]


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
