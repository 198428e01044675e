import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pharos.cli.app import app, is_wrong_use

HEAVY = {"torch", "lancedb", "pyarrow", "numpy", "kreuzberg", "rich", "httpx", "huggingface_hub"}


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from pharos.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Ask a folder of documents" in done.stdout
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


def test_every_command_has_its_page_in_the_docs_and_an_example() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    names = list(command_names(typer.main.get_command(app), "pharos"))
    assert "pharos library check" in names
    for name in names:
        _, _, section = page.partition(f"\n## `{name}`\n")
        assert section, f"{name} has no section in docs/cli.md"
        section = section.partition("\n## ")[0]
        assert "Example" in section or "Begin with" in section, name


def test_a_value_refused_by_the_library_is_one_line_and_wrong_use(pharos, library) -> None:
    for command in ("ask", "search"):
        for arguments, says in (
            (("x", "--filter", "nosuch=1"), "nosuch"),
            (("x" * 9_000,), "9,000 characters"),
            (("x", "-k", "1000000"), "k is 1000000"),
        ):
            run = pharos(command, *arguments, "--library", library)
            assert run.code == 2
            assert run.out == ""
            assert len(run.err.splitlines()) == 1
            assert says in run.err


def test_a_mistake_of_ours_is_not_taken_for_wrong_use() -> None:
    with pytest.raises(ValueError, match="Expecting") as malformed:
        json.loads("{")
    assert not is_wrong_use(malformed.value)
    with pytest.raises(ValueError, match="unpack") as unpacked:
        _, _ = [1]
    assert not is_wrong_use(unpacked.value)


def command_names(command: typer.core.TyperCommand, path: str) -> Iterator[str]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from command_names(child, f"{path} {name}")
