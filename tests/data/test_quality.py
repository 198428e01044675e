"""Good prose passes, and each rule drops what it is about and says so."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.data.quality import RULES, Measured, QualityConfig, rejection

PROSE = """The lighthouse of Alexandria stood on the island of Pharos, and ships saw it from afar.
Its fire was fed with wood that donkeys carried up a ramp inside of the tower. At night a mirror
threw the light over the sea.

Sailors told that it could be seen for three hundred stades. Later builders have copied its shape
with square, octagonal and round storeys, one above another. Nothing remains but some blocks on
the floor of the harbour, where divers found statues in the year 1994."""
WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "d1", "-"]), max_size=40)


def test_prose_is_good_enough() -> None:
    assert rejection(PROSE, QualityConfig()) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short to be of use.", "min_words"),
        (f"{PROSE}\n" * 1500, "max_words"),
        ("it is so. " * 60, "min_mean_word_length"),
        (" ".join(f"incomprehensibilities{n} the." for n in range(60)), "max_mean_word_length"),
        (PROSE.replace(" the ", " # the ").replace("of", "#of"), "max_symbols_per_word"),
        (PROSE.replace(".", ","), "min_sentences"),
        (f"{PROSE} Lorem ipsum dolor sit amet.", "max_placeholders"),
        ("\n".join(f"- the lamp of keeper {n}." for n in "abcdefghijk"), "max_bullet_lines"),
        ("\n".join(f"the light that number {n} sees..." for n in "abcdefghi"), "max_symbols"),
        (PROSE + " 1234" * 60, "min_alphabetic_words"),
        ("Quousque tandem abutere, Catilina, patientia nostra? " * 12, "min_stop_words"),
        (f"{PROSE}\n" + "read more\nand subscribe\n" * 9, "max_duplicate_lines"),
        (f"{PROSE}\n{PROSE.splitlines()[0]}\n" * 1 + PROSE, "max_duplicate_lines"),
        (f"{PROSE} " + "click the button " * 20, "max_top_ngram"),
        (" ".join(f"{PROSE} {PROSE}".split()), "max_duplicate_ngrams"),
    ],
)
def test_each_rule_drops_what_it_is_about(text: str, rule: str) -> None:
    found = rejection(text, QualityConfig())
    assert found is not None
    assert found.rule.startswith(rule)


def test_a_rejection_says_what_was_measured_and_asked_for() -> None:
    assert str(rejection("one two", QualityConfig())) == (
        "min_words: 2, where at least 50 is asked for"
    )
    only = QualityConfig.off(max_duplicate_ngrams={2: 0.1})
    assert str(rejection("a b a b", only)) == (
        "max_duplicate_ngrams[2]: 0.5, where at most 0.1 is asked for"
    )


def test_rules_can_be_switched_off() -> None:
    assert rejection("", QualityConfig.off()) is None
    found = rejection("", QualityConfig.off(min_words=1))
    assert found is not None
    assert found.rule == "min_words"
    german = QualityConfig.off(min_stop_words=2, stop_words=frozenset({"der", "und"}))
    assert rejection("Der Turm und das Meer", german) is None
    assert rejection("The tower and the sea", german) is not None


def test_every_rule_has_its_measure() -> None:
    assert all(hasattr(Measured, rule[4:]) for rule in RULES)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="min_words is -1; it must be at least 0"):
        QualityConfig(min_words=-1)
    with pytest.raises(ValueError, match="at least 1 word"):
        QualityConfig(max_top_ngram={0: 0.1})
    with pytest.raises(TypeError):
        QualityConfig.off(min_wrods=3)


@given(words=WORDS, length=st.integers(1, 6))
def test_ngrams_are_those_of_the_plain_count(words: list[str], length: int) -> None:
    measured = Measured(" ".join(words))
    assert measured.duplicate_ngrams(length) == pytest.approx(plain_duplicates(words, length))
    assert measured.top_ngram(length) == pytest.approx(plain_top(words, length))


def ngrams(words: list[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def plain_duplicates(words: list[str], length: int) -> float:
    seen, covered = set(), set()
    for start, ngram in enumerate(ngrams(words, length)):
        if ngram in seen:
            covered.update(range(start, start + length))
        seen.add(ngram)
    return sum(len(words[i]) for i in covered) / max(sum(map(len, words)), 1)


def plain_top(words: list[str], length: int) -> float:
    found = ngrams(words, length)
    most = max(map(found.count, found), default=0)
    if most < 2:
        return 0.0
    size = max(sum(map(len, ngram)) for ngram in found if found.count(ngram) == most)
    return min(1.0, most * size / sum(map(len, words)))


def test_lengths_are_tried_from_short_to_long_and_repetition_shrinks_with_them() -> None:
    measured = Measured(f"{PROSE} {PROSE[:200]}")
    shares = [measured.duplicate_ngrams(length) for length in range(1, 11)]
    assert all(longer <= shorter for shorter, longer in pairwise(shares))
