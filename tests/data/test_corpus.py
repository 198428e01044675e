"""What is kept is clean, stands once and is good; and every text that is not is counted."""

import pytest

from pharos.data import tokenize_corpus
from pharos.data.corpus import CorpusConfig, CorpusReport, corpus_texts
from pharos.data.quality import QualityConfig

WORDS = ("lamp", "keeper", "stone", "tower", "night", "ship", "mirror", "flame", "wave", "gull")


def prose(seed: int) -> str:
    """Different sentences for each seed, good enough to be kept."""
    picked = [WORDS[(seed * 7 + i * (seed + 3)) % len(WORDS)] for i in range(60)]
    sentences = [
        f"The {a} of {b}{seed}x{i} and that {c} have been seen with it."
        for i, (a, b, c) in enumerate(zip(picked[::3], picked[1::3], picked[2::3], strict=True))
    ]
    return " ".join(sentences)


RULES = QualityConfig.off(min_words=50, min_stop_words=2)
TEXTS = [
    prose(1),
    "too short",
    prose(2),
    prose(1).replace(" ", "  "),
    " \n\t ",
    prose(2).replace("have been", "had been", 1),
    f"ﬁre\r\n{prose(3)}\u200b \n\n\n\nend",
    "zwei drei " * 60,
    "too short",
]


def kept(config: CorpusConfig, workers: int = 1) -> tuple[list[str], CorpusReport]:
    report = CorpusReport()
    return list(corpus_texts(TEXTS, config, report, workers=workers)), report


@pytest.mark.parametrize("workers", [1, 2])
def test_each_stage_takes_out_its_own(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_corpus, "BATCH_CHARACTERS", 1000)
    texts, report = kept(CorpusConfig(quality=RULES), workers)
    assert texts == [prose(1), prose(2), f"fire\n{prose(3)}\n\nend"]
    assert report == CorpusReport(
        read=9,
        empty=1,
        exact_duplicates=2,
        near_duplicates=1,
        low_quality={"min_words": 1, "min_stop_words": 1},
        kept=3,
        characters_read=sum(map(len, TEXTS)),
        characters_kept=sum(map(len, texts)),
    )


def test_everything_switched_off_keeps_texts_as_they_are() -> None:
    texts, report = kept(CorpusConfig.off())
    assert texts == [text for text in TEXTS if not text.isspace()]
    assert (report.kept, report.empty) == (8, 1)


def test_stages_are_switched_off_one_by_one() -> None:
    for fields, name in (
        ({"exact": False, "near_threshold": None}, "exact_duplicates"),
        ({"near_threshold": None}, "near_duplicates"),
        ({"quality": None}, "low_quality"),
    ):
        _, report = kept(CorpusConfig(**{"quality": RULES, **fields}))
        assert not getattr(report, name)
    assert kept(CorpusConfig(exact=False, quality=None))[1].near_duplicates == 2


def test_half_a_surrogate_pair_is_replaced() -> None:
    for config in (CorpusConfig.off(), CorpusConfig(quality=None)):
        [text] = corpus_texts(["a\ud800b é"], config, CorpusReport())
        assert text.encode()


def test_a_similarity_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0\.5 to 1"):
        CorpusConfig(near_threshold=0.2)
