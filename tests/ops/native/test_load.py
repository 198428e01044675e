"""The kernels are loaded once, or not at all and one line says why."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pharos.ops.native import library, load
from pharos.ops.native.build import BuildError
from pharos.ops.native.load import Library, torchs_openmp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernels are for Linux")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was loaded is forgotten, before and after."""
    monkeypatch.delenv(load.SWITCH, raising=False)
    load._loaded.cache_clear()
    yield
    load._loaded.cache_clear()


@pytest.mark.usefixtures("native", "fresh")
def test_it_is_loaded_once_and_has_the_functions_of_the_kernels() -> None:
    loaded = library()
    assert loaded is not None
    assert library() is loaded
    for function in (loaded.linear, loaded.blocks):
        assert function.restype is None
    for function in (loaded.linear_floats, loaded.blocks_floats):
        assert function.restype is not None


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_there_are_none_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert library() is None
        assert library() is None
    (record,) = caplog.records
    assert "there is no C compiler (cc, gcc, clang); install gcc" in record.getMessage()


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(load.SWITCH, "0")
    assert library() is None


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_have_none_and_none_are_built(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(load, "build", None)
    assert library() is None


def test_a_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(b"nothing")
    with pytest.raises(BuildError, match="cannot be loaded"):
        Library(tmp_path / "kernels.so")


@pytest.mark.usefixtures("native")
def test_no_second_openmp_library_is_loaded() -> None:
    maps = Path("/proc/self/maps").read_text()
    mapped = {line.split()[-1] for line in maps.splitlines() if load.OPENMP.search(line)}
    assert mapped == {str(torchs_openmp())}


@pytest.mark.parametrize(
    ("name", "is_openmp"),
    [
        ("/site-packages/torch/lib/libgomp-a34b3233.so.1", True),
        ("/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0", True),
        ("/opt/intel/lib/libiomp5.so", True),
        ("/site-packages/torch/lib/libtorch_cpu.so", False),
        ("/home/libgomp.so/readme.txt", False),
    ],
)
def test_openmp_is_known_by_the_name_of_its_file(name: str, is_openmp: bool) -> None:
    assert (load.OPENMP.search(name) is not None) == is_openmp
