"""Kill an ingest at random moments, resume it, and compare with an undisturbed run.

    python -m benchmarks.kill_ingest DOCS ... [--kills 30] [--seed 0] [--json]

Every round starts a fresh `pharos ingest` in a process of its own, sends it SIGKILL at a random
moment of its run, checks what is there, runs it again to the end, and compares every document,
passage and number of vectors with those of a run that nobody disturbed.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pharos.core import LibraryError
from pharos.rag import Library
from pharos.rag.store import Store

# Commits are made smaller, so that a small corpus has many for a kill to fall between.
PROGRAM = (
    "from pharos.rag import ingest; ingest.GROUP_WINDOWS = 32; from pharos.cli import main; main()"
)
PHAROS = [sys.executable, "-c", PROGRAM]


@dataclass(frozen=True, slots=True)
class Round:
    """`committed` is the number of passages that had survived the kill."""

    killed_after_s: float
    committed: int
    clean_after_kill: bool
    clean_after_resume: bool
    same: bool


def ingest(library: Path, docs: list[str], kill_after: float | None = None) -> float:
    """Run `pharos ingest`, and kill it after so many seconds; returns how long it ran."""
    started = time.monotonic()
    command = [*PHAROS, "ingest", *docs, "--library", str(library), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    else:
        if process.returncode:
            raise SystemExit(f"pharos ingest failed: {errors.decode().strip()}")
    return time.monotonic() - started


def contents(library: Path) -> list[tuple[object, ...]]:
    """All that a search sees, but for the vectors: their last bits depend on the batch."""
    snapshot = Store(library).snapshot()
    columns = {
        snapshot.documents: ["source", "status", "duplicate_of", "text"],
        snapshot.passages: ["id", "start", "end", "body", "readers"],
        snapshot.windows: ["passage_id", "readers"],
    }
    rows = [
        tuple(row.values())
        for table, names in columns.items()
        for row in table.to_arrow().select(names).to_pylist()
    ]
    return sorted(rows, key=repr)


def play(folder: Path, docs: list[str], kill_after: float, expected: object) -> Round:
    library = folder / "library"
    ingest(library, docs, kill_after)
    try:
        interrupted = Library.open(library, create=False)
        committed, clean = interrupted.stats().passages, not interrupted.check()
    except LibraryError:  # killed before there was anything
        committed, clean = 0, True
    ingest(library, docs)
    result = Round(
        killed_after_s=round(kill_after, 2),
        committed=committed,
        clean_after_kill=clean,
        clean_after_resume=not Library.open(library, create=False).check(),
        same=contents(library) == expected,
    )
    shutil.rmtree(library)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill an ingest at random moments and resume it.")
    parser.add_argument("docs", nargs="+")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="pharos-kill-") as scratch:
        folder = Path(scratch)
        seconds = ingest(folder / "undisturbed", arguments.docs)
        stats = Library.open(folder / "undisturbed").stats()
        expected = contents(folder / "undisturbed")
        print(
            f"undisturbed: {stats.documents} documents, {stats.passages} passages, {seconds:.1f} s",
            file=sys.stderr,
        )
        rounds = []
        for number in range(arguments.kills):
            result = play(folder, arguments.docs, moments.uniform(0.0, seconds), expected)
            rounds.append(result)
            print(f"{number + 1:3}: {result}", file=sys.stderr)
    whole = sum(r.same and r.clean_after_kill and r.clean_after_resume for r in rounds)
    if arguments.json:
        print(json.dumps({"whole": whole, "rounds": [asdict(r) for r in rounds]}))
    else:
        print(f"{whole} of {len(rounds)} killed ingests ended with exactly the same library")
    sys.exit(whole != len(rounds))


if __name__ == "__main__":
    main()
