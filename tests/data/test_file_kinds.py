import os
import socket
from pathlib import Path

from pharos.data.file_kinds import kind_of


def kind(path: Path) -> str:
    return kind_of(path.stat().st_mode)


def test_what_is_no_regular_file_has_a_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        kinds = [kind(tmp_path / "pipe"), kind(tmp_path / "socket")]
    assert kinds == ["a named pipe", "a socket"]
    assert [kind(tmp_path), kind(Path("/dev/null"))] == ["a folder", "a character device"]


def test_a_mode_that_is_not_known_is_something_else() -> None:
    assert kind_of(0) == "something else"
