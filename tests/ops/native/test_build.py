"""Kernels are compiled once, privately, and what goes wrong is told with what the compiler said."""

import subprocess
import sys
from pathlib import Path

import pytest

from pharos.ops.native import build as build_module
from pharos.ops.native.build import BuildError, build, cache_folder
from pharos.ops.native.load import Library

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernels are for Linux")
BUILD = "import runpy, sys; from pathlib import Path; print(runpy.run_path(sys.argv[1])['build']"


@pytest.mark.usefixtures("compiler")
def test_two_processes_that_build_at_once_get_one_library_that_works(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{BUILD}(Path(sys.argv[2])))", build_module.__file__]
    running = [
        subprocess.Popen([*command, str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert paths == {str(path) for path in (tmp_path / "cache").iterdir()}
    (path,) = paths
    Library(Path(path))
    before = Path(path).stat().st_mtime_ns
    assert str(build(tmp_path / "cache")) == path
    assert Path(path).stat().st_mtime_ns == before


@pytest.mark.usefixtures("compiler")
def test_source_that_does_not_compile_is_told_with_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "kernels.c"
    source.write_text("int broken(")
    monkeypatch.setattr(build_module, "SOURCE", source)
    with pytest.raises(BuildError, match=r"-O3 .*failed:\n.*kernels\.c:1"):
        build(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BuildError, match="could be written by others"):
        build(tmp_path)


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot be made"):
        build(tmp_path / "file" / "cache")


def test_the_folder_is_under_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pharos" / "native"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pharos" / "native"
