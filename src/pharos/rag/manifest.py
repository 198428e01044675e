"""The manifest: which version of each table belongs to which, replaced in one atomic step.

A library's tables have versions of their own. `manifest.json` names the versions that belong
together, so that whoever reads it sees one state of the whole library; whatever a writer has
written beyond it does not exist until the manifest is replaced.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pharos.core import LibraryError

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`reader_sets` counts the passages of each set of groups (see `access`), `trained_on` the
    windows that the vector index was trained on, `generation` the commits."""

    encoder: str
    dim: int
    versions: Mapping[str, int]
    reader_sets: Mapping[str, int] = field(default_factory=dict)
    documents: int = 0
    duplicates: int = 0
    passages: int = 0
    windows: int = 0
    trained_on: int = 0
    generation: int = 0
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Replace the manifest in `folder`; after a crash at any moment it is the old or this."""
        scratch = folder / f"{NAME}.new"
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(folder / NAME)
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def require_encoder(self, encoder: str, dim: int) -> None:
        if (self.encoder, self.dim) != (encoder, dim):
            raise LibraryError(
                f"this library was made with the encoder {self.encoder}, not {encoder}; vectors of "
                f"different encoders cannot be compared: open it with its own, or ingest into a "
                f"new library"
            )

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest in `folder`, or None if nothing was ever committed there."""
        path = folder / NAME
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LibraryError(
                f"{path} cannot be read ({error}); restore it from a backup, or remove the "
                f"library folder and ingest again"
            ) from error
        if fields.get("format") != FORMAT:
            raise LibraryError(
                f"{folder} is a library of format {fields.get('format')!r}; this version of Pharos "
                f"reads format {FORMAT}: ingest its documents into a new library"
            )
        return cls(**fields)
