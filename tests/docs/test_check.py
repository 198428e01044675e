"""The runner of the documents is itself checked: a page that lies must not pass."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "docs" / "check.py"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_check", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def page(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    return tmp_path / "page.md"


TRUE = """# Page
```console
$ echo one; echo two
one
two
$ echo three > made.txt
$ cat \\
    made.txt
three
```

```python
print(open("made.txt").read().strip())
```

```text
three
```
"""


def test_a_true_page_passes(runner: ModuleType, page: Path) -> None:
    page.write_text(TRUE)
    assert runner.check(page, write=False) == []
    assert page.read_text() == TRUE


def test_a_continued_block_goes_on_with_the_python_above_it(runner: ModuleType, page: Path) -> None:
    blocks = ["python\nx = 1\nprint(x)", "text\n1", "python continued\nx += 1"]
    blocks += ["python continued\nprint(x)", "text\n2", "python\nprint('x' in globals())"]
    page.write_text("".join(f"```{block}\n```\n" for block in [*blocks, "text\nFalse"]))
    assert runner.check(page, write=False) == []


def test_a_page_that_lies_is_named_with_its_line(runner: ModuleType, page: Path) -> None:
    page.write_text(TRUE.replace("two\n$", "2\n$"))
    (problem,) = runner.check(page, write=False)
    assert problem.startswith("page.md:3:")


def test_writing_puts_in_what_was_really_printed(runner: ModuleType, page: Path) -> None:
    page.write_text(TRUE.replace("\ntwo\n", "\n2\n").replace("\nthree\n```\n\n", "\nIII\n```\n\n"))
    runner.check(page, write=True)
    assert page.read_text() == TRUE


def test_a_command_that_fails_is_a_problem_even_if_nothing_is_shown(
    runner: ModuleType, page: Path
) -> None:
    page.write_text("```console\n$ exit 1\n```\n")
    assert len(runner.check(page, write=False)) == 1


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\nc\n", False),
        ("took 1.5 s\n", "took 20.25 s\n", True),
        ("3 files\n", "4 files\n", False),
        ("...\n", "", True),
        ("a.b\n", "axb\n", False),
    ],
)
def test_dots_match_lines_and_decimals_match_decimals(
    runner: ModuleType, shown: str, printed: str, same: bool
) -> None:
    assert runner.matches(shown, printed) is same
