from pydoc_data.topics import topics

from pharos.cli.demo import language_reference, package_descriptions, write_documents


def test_the_documents_are_this_machines_own(tmp_path) -> None:
    count = write_documents(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == count > 50
    assert (tmp_path / "python" / "compound.rst").read_text() == topics["compound"]
    assert "LanceDB" in (tmp_path / "packages" / "lancedb.md").read_text()


def test_no_topic_stands_in_two_documents() -> None:
    texts = language_reference()
    assert "python/compound.rst" in texts
    assert "python/while.rst" not in texts


def test_every_package_that_is_required_is_described() -> None:
    assert all(text.startswith("# ") for text in package_descriptions().values())
