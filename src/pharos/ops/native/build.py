"""Compiles `kernels.c` with the system's C compiler, once for each kind of processor.

The result is kept in the user's cache folder under a name that says what it was made of: the
source, the flags, the compiler and the processor. It is made in a folder of its own and moved into
place, so processes that build at once do no harm.

The kernels run on the threads that torch has already: they are linked without an OpenMP library,
and find torch's when they are loaded. A second pool of threads would spin against the first one on
the same cores.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-Wno-psabi",
)
MOST_SECONDS = 300.0


class BuildError(Exception):
    """Why there are no native kernels here."""


def build(folder: Path) -> Path:
    """The library for this processor in `folder`, compiled unless it is there. Raises BuildError
    with what the compiler said."""
    compiler = find_compiler()
    _make_private(folder)
    library = folder / f"kernels-{_digest(compiler)}.so"
    if not library.exists():
        _compile(compiler, library)
    return library


def find_compiler() -> Path:
    for name in COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return Path(found).resolve()
    raise BuildError(f"there is no C compiler ({', '.join(COMPILERS)}); install gcc")


def cache_folder() -> Path:
    """Where compiled kernels are kept: `~/.cache/pharos/native`, or under `$XDG_CACHE_HOME`."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise BuildError(f"there is no home folder ({error}); set XDG_CACHE_HOME") from error
    return cache / "pharos" / "native"


def _make_private(folder: Path) -> None:
    """What is loaded from there runs as us: nobody else may write to it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise BuildError(f"{folder} cannot be made ({error}); set XDG_CACHE_HOME") from error
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(
            f"{folder} could be written by others than its user; chmod 700 it, or remove it"
        )


def _compile(compiler: Path, library: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as name:
            made = Path(name) / "kernels.o", Path(name) / "kernels.so"
            _run([str(compiler), *FLAGS, "-c", str(SOURCE), "-o", str(made[0])])
            _run([str(compiler), "-shared", str(made[0]), "-o", str(made[1])])
            made[1].replace(library)
    except OSError as error:
        raise BuildError(f"{library.parent} cannot be written to: {error}") from error


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(command)} took more than {MOST_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr.strip() or done.stdout}")


def _digest(compiler: Path) -> str:
    """Of everything that the compiled code depends on."""
    about = compiler.stat()
    digest = hashlib.sha256(SOURCE.read_bytes())
    for part in (*FLAGS, compiler, about.st_size, about.st_mtime_ns, _processor()):
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    """Its name and the instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    first = lines[: lines.index("")] if "" in lines else lines
    named = ("model", "model name", "stepping", "flags", "Features", "CPU part")
    return "\n".join(line for line in first if line.split("\t")[0].rstrip(" :") in named)
