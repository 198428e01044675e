import json

import pytest

from pharos import Library


@pytest.fixture
def roles(manuals) -> str:
    return str(manuals / "roles.md")


def test_list_has_a_line_for_every_document(pharos, library) -> None:
    lines = pharos("library", "list", "--library", library).out.splitlines()
    assert len(lines) == 5
    assert any("roles.md" in line and "Managing roles" in line for line in lines)
    assert any("payroll" in line for line in lines)
    documents = json.loads(pharos("library", "list", "--library", library, "--json").out)
    assert len(documents["documents"]) == 5


def test_a_hostile_title_is_listed_as_plain_letters(pharos, library) -> None:
    out = pharos("library", "list", "--library", library).out
    assert "[bold red]manual[/bold red]" in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_show_outlines_a_document(pharos, library, roles) -> None:
    out = pharos("library", "show", roles, "--library", library).out
    assert out.startswith("Managing roles\n")
    assert "    Dropping a role  " in out


def test_show_prints_the_characters_that_a_citation_names(pharos, library, roles) -> None:
    text = Library.open(library).document(roles).text
    start = text.index("DROP ROLE")
    run = pharos("library", "show", roles, "--library", library, "--span", f"{start}:{start + 9}")
    assert run.out == "DROP ROLE\n"


@pytest.mark.parametrize("span", ["1", "a:b", "5:2", "0:99999999", "-1:5"])
def test_a_span_outside_the_text_is_wrong_use(pharos, library, roles, span: str) -> None:
    assert pharos("library", "show", roles, "--library", library, f"--span={span}").code == 2


def test_showing_what_is_not_there_says_what_lists_it(pharos, library) -> None:
    run = pharos("library", "show", "nowhere.md", "--library", library)
    assert run.code == 1
    assert "pharos library list" in run.err


def test_remove_takes_a_document_out(pharos, manuals, tmp_path) -> None:
    folder = tmp_path / "x.library"
    Library.open(folder).ingest([manuals / "roles.md", manuals / "backup.md"])
    run = pharos("library", "remove", manuals / "roles.md", "--library", folder)
    assert "removed 1 of 1" in run.err
    (left,) = Library.open(folder).documents()
    assert left.source.endswith("backup.md")


def test_removing_what_is_not_there_names_it_and_fails(pharos, manuals, tmp_path) -> None:
    folder = tmp_path / "x.library"
    Library.open(folder).ingest([manuals / "roles.md"])
    run = pharos("library", "remove", manuals / "roles.md", "nosuch", "--library", folder)
    assert run.code == 1
    assert "removed 1 of 2" in run.err
    assert f"not in {folder}: nosuch;" in run.err
    assert Library.open(folder).documents() == []


def test_a_whole_library_checks_out(pharos, library) -> None:
    run = pharos("library", "check", "--library", library)
    assert run.code == 0
    assert "everything adds up" in run.out
    assert (
        json.loads(pharos("library", "check", "--library", library, "--json").out)["problems"] == []
    )
