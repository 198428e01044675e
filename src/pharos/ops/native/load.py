"""The compiled kernels, if this machine can have them."""

import logging
import os
import re
import sys
from ctypes import CDLL, RTLD_GLOBAL, Structure, c_float, c_int, c_int64, c_void_p, sizeof
from functools import cache
from pathlib import Path

from pharos.ops.native.build import BuildError, build, cache_folder
from pharos.ops.native.structures import Block, Matrix, Pass, Prompt

SWITCH = "PHAROS_NATIVE"
"""The environment variable that switches the kernels off: 0."""
OPENMP = re.compile(r"/lib(gomp|iomp5)[^/]*\.so[^/]*$")

log = logging.getLogger(__name__)


class Library:
    """The functions of `kernels.c`. Raises BuildError for a library that cannot be loaded."""

    def __init__(self, path: Path) -> None:
        try:
            CDLL(str(torchs_openmp()), mode=RTLD_GLOBAL)
            loaded = CDLL(str(path))
        except OSError as error:
            raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error
        self.linear = loaded.pharos_linear
        self.linear.restype = None
        self.linear.argtypes = (c_void_p, c_void_p, c_void_p, c_int, c_int, c_int, c_void_p)
        self.linear_floats = loaded.pharos_linear_floats
        self.linear_floats.restype = c_int64
        self.linear_floats.argtypes = (c_void_p, c_int, c_int)
        self.most_rows = loaded.pharos_most_rows
        self.most_rows.restype = c_int
        self.most_rows.argtypes = (c_void_p, c_int)
        self.takes_many = loaded.pharos_takes_many
        self.takes_many.restype = c_int
        self.takes_many.argtypes = (c_void_p, c_int)
        self.in_large_pages = loaded.pharos_in_large_pages
        self.in_large_pages.restype = None
        self.in_large_pages.argtypes = (c_void_p, c_int64)
        self.norm = loaded.pharos_norm
        self.norm.restype = None
        self.norm.argtypes = (
            *(c_void_p, c_void_p, c_float, c_void_p),
            *(c_int, c_int, c_int, c_int, c_void_p),
        )
        self.silu_and_mul = loaded.pharos_silu_and_mul
        self.silu_and_mul.restype = None
        self.silu_and_mul.argtypes = (c_void_p, c_void_p, c_int64, c_int, c_int)
        self.swiglu = loaded.pharos_swiglu
        self.swiglu.restype = None
        self.swiglu.argtypes = (
            *(c_void_p, c_void_p, c_void_p, c_void_p),
            *(c_int, c_int, c_int, c_void_p),
        )
        self.attends = loaded.pharos_attends
        self.attends.restype = c_int
        self.attends.argtypes = ()
        self.attend = loaded.pharos_attend
        self.attend.restype = None
        self.attend.argtypes = (c_void_p,)
        self.choose = loaded.pharos_choose
        self.choose.restype = None
        self.choose.argtypes = (
            *(c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
            *(c_int, c_int64, c_int, c_int, c_void_p),
        )
        self.blocks = loaded.pharos_blocks
        self.blocks.restype = None
        self.blocks.argtypes = (c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p)
        self.blocks_floats = loaded.pharos_blocks_floats
        self.blocks_floats.restype = c_int64
        self.blocks_floats.argtypes = (c_void_p, c_int, c_int, c_int)
        structures: tuple[type[Structure], ...] = (Matrix, Block, Pass, Prompt)
        sizes = [loaded.pharos_size_of(number) for number in range(len(structures))]
        assert sizes == [sizeof(structure) for structure in structures], sizes


def library() -> Library | None:
    """The kernels, compiled if this is the first time on this machine (some seconds). None where
    they are switched off (`PHAROS_NATIVE=0`), on a system other than Linux, and, with a warning,
    where they cannot be made."""
    if os.environ.get(SWITCH) == "0" or sys.platform != "linux":
        return None
    return _loaded()


@cache
def _loaded() -> Library | None:
    try:
        return Library(build(cache_folder()))
    except BuildError as error:
        log.warning("tokens are computed without native kernels, and slower: %s", error)
        return None


def torchs_openmp() -> Path:
    """The OpenMP library that torch has loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.partition("/")[2] for line in lines}
    found = sorted(path for name in mapped if OPENMP.search(path := f"/{name}"))
    for path in sorted(found, key=lambda path: "/torch" not in path):
        return Path(path)
    raise BuildError("torch has no OpenMP library whose threads could be shared")
