"""Kernels are compiled once, privately, and what goes wrong is told with what the compiler said."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pharos.ops.native import build as build_module
from pharos.ops.native import library, load
from pharos.ops.native.build import BuildError, build, cache_folder, find_compiler
from pharos.ops.native.load import Library, torchs_openmp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernels are for Linux")


def has_compiler() -> bool:
    try:
        find_compiler()
    except BuildError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C compiler")
BUILD = "import runpy, sys; from pathlib import Path; print(runpy.run_path(sys.argv[1])['build']"


@needs_compiler
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


@needs_compiler
def test_source_that_does_not_compile_is_told_with_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "kernels.c"
    source.write_text("int broken(")
    monkeypatch.setattr(build_module, "SOURCE", source)
    with pytest.raises(BuildError, match=r"-O3 .*failed:\n.*kernels\.c:1"):
        build(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@needs_compiler
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BuildError, match="could be written by others"):
        build(tmp_path)


@needs_compiler
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


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was loaded is forgotten, before and after."""
    load._loaded.cache_clear()
    yield
    load._loaded.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_there_are_none_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(load.SWITCH, raising=False)
    with caplog.at_level(logging.WARNING):
        assert library() is None
        assert library() is None
    (record,) = caplog.records
    assert "there is no C compiler (cc, gcc, clang); install gcc" in record.getMessage()


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(load.SWITCH, "0")
    assert library() is None


@needs_compiler
def test_a_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(b"nothing")
    with pytest.raises(BuildError, match="cannot be loaded"):
        Library(tmp_path / "kernels.so")


@needs_compiler
def test_no_second_openmp_library_is_loaded() -> None:
    assert library() is not None
    maps = Path("/proc/self/maps").read_text()
    mapped = {line.split()[-1] for line in maps.splitlines() if load.OPENMP.search(line)}
    assert mapped == {str(torchs_openmp())}
