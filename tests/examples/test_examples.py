import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(example: str) -> str:
    command = [sys.executable, ROOT / "examples" / example]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_fits_on_one_screen(example: Path) -> None:
    assert len(example.read_text().splitlines()) <= 50


def test_a_file_is_asked_and_quoted() -> None:
    assert "patent license" in run("ask_a_file.py")


def test_a_visitor_learns_nothing_of_the_budget() -> None:
    visitor, librarian = run("who_may_read.py").splitlines()
    assert "twelve" not in visitor
    assert "twelve talents" in librarian


def test_the_unsupported_sentence_is_dropped() -> None:
    answer, dropped = run("language_model.py").splitlines()
    assert "dusk" in answer
    assert "giants" not in answer
    assert "giants" in dropped
