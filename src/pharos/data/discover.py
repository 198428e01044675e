"""Paths, folders and globs become a sorted list of files, and a line for whatever is not one.

Every real file is listed once, however many symbolic links lead to it. Nothing is opened here: a
FIFO or a device is told by its kind and never read. Paths are plain strings inside, for speed.
"""

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pharos.data.file_kinds import kind_of

SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
LIBRARY_MARKS = frozenset({"tables", "writer.lock"})  # a library must not take itself for documents
_ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f])")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file to ingest. `source` is its absolute path as the user would find it, with bytes that
    are no UTF-8 written as `\\xNN`; `size` in bytes."""

    path: Path
    source: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """`files` are sorted by source; `failures` are (source, reason)."""

    files: list[SourceFile]
    failures: list[tuple[str, str]]


def discover(paths: Iterable[str | Path]) -> Discovery:
    """The files that `paths` name: files, folders (with all below them) and globs (`docs/**/*.md`).
    A folder that a glob matches is taken with all below it, as if a shell had matched it.

    Hidden files and folders, and those of `SKIPPED_FOLDERS`, are left out unless they are named
    themselves; so is what stands in a library. What is missing, unreadable, empty, or no regular
    file becomes a failure.
    """
    search = _Search()
    for path in paths:
        search.start(os.path.normpath(Path.cwd() / path))
    files = sorted(search.files.values(), key=lambda file: file.source)
    return Discovery(files=files, failures=sorted(set(search.failures)))


def source_of(path: str | Path) -> str:
    """The name of a path as text that can be stored and printed."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def path_of(source: str) -> Path:
    """The path that `source_of` named, whether or not it still exists."""
    if not os.path.lexists(source) and "\\x" in source:
        escaped = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), source.encode())
        if os.path.lexists(escaped):
            return Path(os.fsdecode(escaped))
    return Path(source)


Inode = tuple[int, int]


@dataclass(slots=True)
class _Search:
    """One walk over all paths. `entered` are the real folders seen, so that each is walked once;
    `met` counts files, failures and folders seen before, so that a path without any is noticed."""

    files: dict[Inode, SourceFile] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    entered: set[Inode] = field(default_factory=set)
    met: int = 0

    def start(self, path: str) -> None:
        if os.path.lexists(path) or not glob.has_magic(path):
            met = self.met
            self._visit(path)
            if self.met == met:
                self._fail(path, "no files in this folder")
            return
        # Strings, not paths: five times as fast for thousands of matches.
        skipped = SKIPPED_FOLDERS.difference(path.split(os.sep))  # noqa: PTH206
        matches = sorted(glob.iglob(path, recursive=True))  # noqa: PTH207
        wanted = [match for match in matches if skipped.isdisjoint(match.split(os.sep))]  # noqa: PTH206
        met = self.met
        for match in wanted:
            self._visit(match)
        if self.met == met:
            self._fail(path, "no file matches this pattern")

    def _visit(self, path: str) -> None:
        stack = [(path, frozenset[Inode]())]
        while stack:
            current, above = stack.pop()
            stack.extend(self._enter(current, above))

    def _enter(self, path: str, above: frozenset[Inode]) -> Iterator[tuple[str, frozenset[Inode]]]:
        """Note a file, or yield what stands in a folder. `above` are the folders that it is in."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            self._fail(path, _reason(path, error))
            return
        inode = (status.st_dev, status.st_ino)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._note(path, inode, status)
        elif kind != stat.S_IFDIR:
            self._fail(path, f"not a file but {kind_of(status.st_mode)}; it is not read")
        elif inode in above:
            self._fail(path, "a symbolic link to a folder that it stands in; it is not followed")
        elif inode in self.entered:
            self.met += 1
        else:
            self.entered.add(inode)
            for entry in self._entries(path):
                yield entry, above | {inode}

    def _entries(self, folder: str) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: entry.path for entry in entries}
        except OSError as error:
            self._fail(folder, _reason(folder, error))
            return []
        if found.keys() >= LIBRARY_MARKS:
            return []
        names = [path for name, path in found.items() if _is_wanted(name)]
        return sorted(names, reverse=True)  # a stack: the first name is visited first

    def _note(self, path: str, inode: Inode, status: os.stat_result) -> None:
        self.met += 1
        source = source_of(path)
        known = self.files.get(inode)
        # Of several names the smallest, whatever the order they were met in.
        if known is None or source < known.source:
            self.files[inode] = SourceFile(
                path=Path(path), source=source, size=status.st_size, mtime_ns=status.st_mtime_ns
            )

    def _fail(self, path: str, reason: str) -> None:
        self.met += 1
        self.failures.append((source_of(path), reason))


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name not in SKIPPED_FOLDERS


def _reason(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        is_link = Path(path).is_symlink()
        return "a symbolic link to nothing" if is_link else "no such file or folder"
    return f"cannot be read: {error.strerror or error}"
