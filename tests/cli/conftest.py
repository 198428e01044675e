from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pharos.cli import main

HOSTILE_TITLE = "Evil\x1b[31m\x1b]0;owned\x07 [bold red]manual[/bold red]"

PAGES = {
    "roles.md": """# Managing roles

## Creating a role

A role is created with the command CREATE ROLE, which needs the name of the new role.

## Dropping a role

A role is dropped with the command DROP ROLE. A role that still owns objects cannot be dropped:
first hand them to another role with REASSIGN OWNED.
""",
    "backup.md": """# Backing up

The server writes a full backup every Sunday at midnight and keeps it for ninety days.
Restoring a backup takes the server offline for about twenty minutes.
""",
    "copy-of-backup.md": """# Backing up

The server writes a full backup every Sunday at midnight and keeps it for ninety days.
Restoring a backup takes the server offline for about twenty minutes.
""",
    "hostile.html": f"""<html><head><title>{HOSTILE_TITLE}</title></head><body>
<h1>{HOSTILE_TITLE}</h1>
<p>The lighthouse keeper feeds \x1b[2J[link=file:///etc/passwd]seven\u202e gulls[/link] daily.</p>
</body></html>""",
}
SECRET = "# Salaries\n\nThe harbour master of Alexandria earns four hundred drachmas a month.\n"


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


Pharos = Callable[..., Run]


@pytest.fixture
def pharos(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pharos:
    """Runs a command line in this process: its exit code and what it wrote into pipes."""
    for variable in ("COLUMNS", "PHAROS_LIBRARY"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Run(stopped.value.code or 0, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manuals")
    for name, text in PAGES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing of use")
    return folder


@pytest.fixture(scope="session")
def library(manuals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the manuals, and of one document that only the group `payroll` may read."""
    from pharos import Library

    folder = tmp_path_factory.mktemp("library") / "manuals.library"
    secret = tmp_path_factory.mktemp("payroll") / "salaries.md"
    secret.write_text(SECRET, encoding="utf-8")
    Library.open(folder).ingest([manuals])
    Library.open(folder).ingest([secret], groups=["payroll"])
    return folder
