import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pharos.core import Answer, Citation, LibraryError
from pharos.core.doubles import HashEmbedder, ScriptedModel
from pharos.rag.library import Library

from .conftest import MakeLibrary


@pytest.fixture(scope="module")
def every_format(corpus: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("every") / "library"
    library = Library.open(folder, embedder=HashEmbedder(dim=256))
    report = library.ingest(list(corpus.values()))
    assert report.failures == []
    return library


def holds(library: Library, citation: Citation) -> bool:
    text = library.document(citation.document).text
    return bool(citation.quote) and text[citation.start : citation.end] == citation.quote


def test_a_corpus_of_every_format_adds_up(every_format: Library) -> None:
    assert every_format.check() == []


def test_the_fact_of_every_format_is_found(
    every_format: Library, corpus: dict[str, Path], facts: dict[str, str]
) -> None:
    for key, path in corpus.items():
        hits = every_format.search(facts[key], k=3)
        assert str(path) in {hit.passage.source for hit in hits}, key


def test_the_fact_of_every_format_is_quoted_exactly(
    every_format: Library, corpus: dict[str, Path], facts: dict[str, str]
) -> None:
    for key, path in corpus.items():
        answer = every_format.ask(facts[key], threshold=0.0)
        assert not answer.abstained
        assert all(holds(every_format, citation) for citation in answer.citations), key
        assert str(path) in {citation.document for citation in answer.citations}, key


def test_a_citation_in_a_pdf_names_the_page(every_format: Library, facts: dict[str, str]) -> None:
    answer = every_format.ask(facts["pdf"], threshold=0.0)
    cited = next(c for c in answer.citations if facts["pdf"] in c.quote)
    assert cited.page == 1


def test_a_citation_names_the_headings_that_its_quote_stands_under(
    library: Library, docs: Path
) -> None:
    """A passage may cover several short sections."""
    library.ingest([docs])
    answer = library.ask("What removes a role?", threshold=0.0)
    cited = next(c for c in answer.citations if "DROP ROLE removes" in c.quote)
    assert cited.headings == ("Roles", "Dropping a role")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_quote_of_every_citation_is_the_text_at_its_offsets(
    every_format: Library, data: st.DataObject
) -> None:
    """Questions made of words that stand anywhere in the corpus."""
    sources = [record.source for record in every_format.documents()]
    text = every_format.document(data.draw(st.sampled_from(sources))).text
    start = data.draw(st.integers(0, max(0, len(text) - 20)))
    question = text[start : start + data.draw(st.integers(10, 80))]
    if not question.strip():
        return
    answer = every_format.ask(question, threshold=0.0)
    assert all(holds(every_format, c) for c in (*answer.citations, *answer.looked_at))


def test_an_answer_says_how_long_each_stage_took(every_format: Library) -> None:
    answer = every_format.ask("How often is the lamp room inspected?", threshold=0.0)
    timings = dict(answer.timings_ms)
    total = timings.pop("total")
    assert timings.keys() == {"load", "search", "read"}
    assert 0.0 <= sum(timings.values()) <= total


def test_below_the_threshold_it_abstains_and_says_what_it_looked_at(every_format: Library) -> None:
    answer = every_format.ask("How often is the lamp room inspected?", threshold=1.0)
    assert (answer.abstained, answer.answer, answer.citations) == (True, None, ())
    assert answer.looked_at


def test_a_language_model_is_cited_where_its_sources_bear_it_out(
    library: Library, docs: Path
) -> None:
    library.ingest([docs])
    model = ScriptedModel(["DROP ROLE removes a role. [1] It also paints the house green. [1]"])
    said: list[str] = []
    answer = library.ask("What does DROP ROLE do?", model=model, threshold=0.0, on_text=said.append)
    assert answer.answer is not None
    assert "".join(said) == answer.answer
    assert "paints" not in answer.answer
    assert any("paints the house" in sentence for sentence in answer.unsupported)
    assert all(holds(library, citation) for citation in answer.citations)


def test_what_the_asker_may_not_read_does_not_reach_the_model(library: Library, docs: Path) -> None:
    library.ingest([docs / "guides"])
    library.ingest([docs / "roles.md"], groups=["admins"])
    model = ScriptedModel(["Nothing is known. [1]"] * 2)
    library.ask("What does DROP ROLE do?", model=model, threshold=0.0)
    assert all("DROP ROLE removes" not in m.content for asked in model.asked for m in asked)


def test_who_may_read_nothing_gets_no_answer(library: Library, docs: Path) -> None:
    library.ingest([docs], groups=["admins"])
    answer = library.ask("What does DROP ROLE do?", threshold=0.0)
    assert (answer.abstained, answer.looked_at) == (True, ())


def test_a_document_is_found_by_its_source_only(library: Library, docs: Path) -> None:
    library.ingest([docs])
    assert library.document(str(docs / "roles.md")).title == "Roles"
    with pytest.raises(LibraryError, match="pharos library list"):
        library.document("roles.md")


def test_removed_documents_are_gone_from_search(library: Library, docs: Path) -> None:
    library.ingest([docs])
    assert library.remove([str(docs / "roles.md"), "no such source"]) == 1
    assert all("roles" not in hit.passage.source for hit in library.search("role", k=50))
    assert library.check() == []


def test_stats_count_what_is_there(library: Library, docs: Path) -> None:
    library.ingest([docs / "guides"])
    library.ingest([docs / "roles.md"], groups=["admins", "board"])
    stats = library.stats()
    assert (stats.documents, stats.groups) == (3, ("admins", "board", "public"))
    assert stats.passages == 3
    assert stats.bytes > 0


def test_another_encoder_is_refused_with_both_names(library: Library, docs: Path) -> None:
    library.ingest([docs])
    other = Library.open(library.path, embedder=HashEmbedder(dim=32))
    with pytest.raises(LibraryError, match="hash-256, not hash-32"):
        other.search("role")


def test_keywords_need_no_encoder(library: Library, docs: Path) -> None:
    library.ingest([docs])
    other = Library.open(library.path, embedder=HashEmbedder(dim=32))
    assert other.search("role", mode="bm25")


def test_an_absent_library_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="pharos ingest PATH"):
        Library.open(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_reader_open_before_an_ingest_sees_it_afterwards(
    make_library: MakeLibrary, docs: Path
) -> None:
    first, second = make_library(), make_library()
    first.ingest([docs / "guides"])
    assert all("roles" not in hit.passage.source for hit in second.search("role", k=50))
    first.ingest([docs])
    assert any("roles" in hit.passage.source for hit in second.search("role", k=50))


def test_check_finds_what_was_tampered_with(library: Library, docs: Path) -> None:
    library.ingest([docs])
    snapshot = library._store.snapshot()
    table = snapshot.passages
    table.checkout_latest()
    table.update(where="true", values={"start": 1})
    assert any("its text is not the document's" in problem for problem in library.check())


def test_check_says_that_damaged_tables_cannot_be_read(library: Library, docs: Path) -> None:
    library.ingest([docs])
    for path in (library.path / "tables" / "documents.lance" / "data").iterdir():
        path.write_bytes(b"damaged")
    (problem,) = Library.open(library.path, embedder=HashEmbedder(dim=256)).check()
    assert "cannot be read" in problem


def test_answers_are_the_same_twice(every_format: Library, facts: dict[str, str]) -> None:
    def fingerprint(answer: Answer) -> int:
        return zlib.crc32(repr((answer.answer, answer.citations)).encode())

    ask = [every_format.ask(facts["md"], threshold=0.0) for _ in range(2)]
    assert fingerprint(ask[0]) == fingerprint(ask[1])
