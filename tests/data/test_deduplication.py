import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.data.deduplication import NearDuplicates, content_hash, signature, similarity

WORDS = [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in ("el", "or", "un", "ith", "eph")]


def manual(seed: int, num_paragraphs: int = 20) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=60)) + "." for _ in range(num_paragraphs)]


def jaccard(a: str, b: str) -> float:
    shingles = []
    for text in (a, b):
        words = text.replace(".", " ").split()
        shingles.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


@given(st.text(max_size=200))
def test_layout_does_not_change_the_hash(text: str) -> None:
    assert content_hash(text) == content_hash("  " + "\n ".join(text.split()) + "\n")


def test_other_words_change_the_hash() -> None:
    assert content_hash("the lamp is lit") != content_hash("the lamp is out")


def test_composed_and_decomposed_letters_hash_alike() -> None:
    assert content_hash("caf\u00e9") == content_hash("cafe\u0301")


def test_a_signature_is_the_same_in_another_process() -> None:
    text = "\n".join(manual(1))
    program = (
        "import sys; from pharos.data.deduplication import signature;"
        "print(signature(sys.stdin.read()).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=text, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == signature(text).hex()


@pytest.mark.parametrize("kept", [20, 19, 18, 15, 10, 0])
def test_the_estimate_is_near_the_true_similarity(kept: int) -> None:
    one, other = manual(1), manual(2)
    a, b = "\n".join(one), "\n".join(one[:kept] + other[kept:])
    assert similarity(signature(a), signature(b)) == pytest.approx(jaccard(a, b), abs=0.12)


def test_a_manual_with_a_changed_word_is_found() -> None:
    index = NearDuplicates()
    for seed in range(50):
        index.add(f"m{seed}", signature("\n".join(manual(seed, num_paragraphs=60))))
    changed = "\n".join(manual(7, num_paragraphs=60)).replace("ael", "altered", 1)
    found = index.find(signature(changed))
    assert found is not None
    assert found[0] == "m7"
    assert found[1] >= 0.97


def test_editions_that_differ_in_one_paragraph_of_twenty_both_stay() -> None:
    dropped = 0
    for seed in range(100):
        index = NearDuplicates()
        index.add("first", signature("\n".join(manual(seed))))
        edition = manual(seed)
        edition[seed % 20] = manual(1000 + seed)[0]
        dropped += index.find(signature("\n".join(edition))) is not None
    assert dropped <= 5


def test_copies_with_a_word_changed_are_nearly_always_found() -> None:
    found = 0
    for seed in range(100):
        index = NearDuplicates()
        text = "\n".join(manual(seed))
        index.add("first", signature(text))
        found += index.find(signature(text.replace(".", " indeed.", 1))) is not None
    assert found >= 97


def test_short_texts_have_no_near_duplicates() -> None:
    index = NearDuplicates()
    index.add("short", signature("only a few words"))
    assert len(index) == 0
    assert index.find(signature("only a few words")) is None


def test_of_equally_similar_texts_the_first_added_is_named() -> None:
    index = NearDuplicates()
    text = signature("\n".join(manual(3)))
    for name in ("z", "a", "m"):
        index.add(name, text)
    assert index.find(text) == ("z", 1.0)


def test_the_index_finds_what_comparing_with_every_text_finds() -> None:
    rng = random.Random(5)
    family = [rng.randbytes(512) for _ in range(40)]
    index, known = NearDuplicates(0.9), []
    for i in range(2500):
        places = bytearray(rng.choice(family))
        for _ in range(rng.randrange(20)):
            place = 4 * rng.randrange(128)
            places[place : place + 4] = rng.randbytes(4)
        known.append((str(i), bytes(places)))
        index.add(*known[-1])
    for _, text in known[::100]:
        best = max(known, key=lambda other: similarity(other[1], text))
        assert index.find(text) == (best[0], similarity(best[1], text))


def test_a_threshold_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        NearDuplicates(1.5)
