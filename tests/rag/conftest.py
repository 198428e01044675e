"""Libraries over the hash embedder: the real store, parser and chunker, without weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pharos.core.doubles import HashEmbedder
from pharos.rag.library import Library

MakeLibrary = Callable[[], Library]


@pytest.fixture
def make_library(tmp_path: Path) -> MakeLibrary:
    """Opens the same library anew at each call, as another process would."""
    return lambda: Library.open(tmp_path / "library", embedder=HashEmbedder(dim=256))


@pytest.fixture
def library(make_library: MakeLibrary) -> Library:
    return make_library()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Three small manuals in two folders."""
    folder = tmp_path / "docs"
    (folder / "guides").mkdir(parents=True)
    (folder / "roles.md").write_text(
        "# Roles\n\nA role is a user or a group of users.\n\n"
        "## Dropping a role\n\nDROP ROLE removes a role. Its objects must be dropped first.\n"
    )
    (folder / "guides" / "backup.md").write_text(
        "# Backup\n\nThe command pg_dump writes a script that rebuilds the database.\n"
    )
    (folder / "guides" / "vacuum.txt").write_text(
        "Vacuum reclaims the storage that dead rows occupy. Autovacuum runs it in the background.\n"
    )
    return folder
