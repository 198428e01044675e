"""Runs what the documents show, and compares it with what they say it prints.

    python docs/check.py [--write] [PAGE ...]        (all pages if none is named)

In a ```console block each line that begins with `$ ` is a command for bash; the lines after it are
what it must print (stdout and stderr together). A ```python block is run; a ```text block right
after it is what it must print. Blocks of one page run in order, in a scratch folder that holds a
copy of the checkout's documents, so a block can use the files that one above made; nothing else
passes from one to the next, unless it says ```python continued: such a block goes on with the names
of the Python above it. Nothing is expected of a command that shows no output, except that it
succeeds.

A line that is only `...` stands for any number of lines. Scores and times (0.97, 0:00:05) differ
between machines: any such number matches. `--write` puts what was really printed in place of what
does not match; the scratch folder's name, which is another each time, is written as /home/you.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("LICENSE", "README.md", "CONTRIBUTING.md", "docs", "examples")
FENCE = re.compile(
    r"^```(console|python|python continued)\n(.*?)^```\n(?:\n?^```text\n(.*?)^```\n)?", re.M | re.S
)
AFTER = """import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    exec({above!r})
"""
HOME = "/home/you"
TIMEOUT_S = 300
ABSTAINED = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what the page says it prints, which is `page[start:end]`."""

    command: list[str]
    shown: str
    line: int
    start: int
    end: int


def steps(page: str) -> Iterator[Step]:
    above = ""  # the Python that a continued block goes on with
    for block in FENCE.finditer(page):
        if block[1] == "console":
            yield from console_steps(page, block.start(2), block[2])
        else:
            start, end = block.span(3) if block[3] is not None else (block.end(2),) * 2
            line = page.count("\n", 0, block.start(2)) + 1
            above = above if block[1] == "python continued" else ""
            code = AFTER.format(above=above) + block[2] if above else block[2]
            yield Step([sys.executable, "-c", code], block[3] or "", line, start, end)
            above += block[2]


def console_steps(page: str, offset: int, body: str) -> Iterator[Step]:
    """`$ command` and its output, up to the next command; a `\\` at a line's end continues it."""
    for match in re.finditer(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", body, re.M):
        start, end = offset + match.start(2), offset + match.end(2)
        line = page.count("\n", 0, offset + match.start()) + 1
        yield Step(["bash", "-c", match[1]], match[2], line, start, end)


def matches(shown: str, printed: str) -> bool:
    """Is `printed` what is `shown`? See the module's text for what `...` and decimals match."""
    parts = [re.escape(loose(part)) for part in re.split(r"^\.\.\.\n", shown, flags=re.M)]
    return re.fullmatch("(?:.*\n)*".join(parts), loose(printed)) is not None


def loose(text: str) -> str:
    """Scores and times all alike; blanks and bars too, since they move with the numbers' widths."""
    lines = [
        re.sub(r"[━╸╺]+", "━", re.sub(r"\s+", " ", line)).rstrip() for line in text.splitlines()
    ]
    return re.sub(r"\d+\.\d+|\d+:\d\d:\d\d", "0.0", "".join(f"{line}\n" for line in lines))


def run(step: Step, folder: Path) -> tuple[int, str]:
    """The exit code and what was printed, in a plain terminal of 80 columns without a network."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_DATA_HOME": str(folder / ".data"),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "COLUMNS": "80",
        "PYTHONPATH": "",
    }
    done = subprocess.run(
        step.command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace").replace(str(folder), HOME)


def check(path: Path, *, write: bool) -> list[str]:
    """What is wrong with a page, one entry each; with `write`, outputs that differ are replaced."""
    page = path.read_text(encoding="utf-8")
    replaced, problems = page, []
    with tempfile.TemporaryDirectory(prefix="pharos-docs-") as scratch:
        prepare(Path(scratch))
        found = list(steps(page))
        outcomes = [(step, *run(step, Path(scratch))) for step in found]
    for step, code, printed in reversed(outcomes):  # from the end, so that offsets stay true
        where = f"{path.relative_to(ROOT)}:{step.line}"
        if code not in (0, ABSTAINED):
            problems.append(f"{where}: exit code {code}\n{printed}")
        elif step.shown and not matches(step.shown, printed):
            replaced = replaced[: step.start] + printed + replaced[step.end :]
            problems.append(f"{where}: it printed\n{printed}-- the page says\n{step.shown}")
    if write and replaced != page:
        path.write_text(replaced, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: written")
    print(f"{path.relative_to(ROOT)}: {len(found)} commands run, {len(problems)} differ")
    return problems


def prepare(scratch: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, scratch / name)
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, scratch / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run what the documents show.")
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="write what was really printed")
    options = parser.parse_args()
    pages = [page.resolve() for page in options.pages] or documents()
    problems = [problem for page in pages for problem in check(page, write=options.write)]
    if problems and not options.write:
        sys.exit("\n".join(problems))


def documents() -> list[Path]:
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])


if __name__ == "__main__":
    main()
