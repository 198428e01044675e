"""Tests of kernels run where there are any, on as many threads as they ask for."""

from collections.abc import Iterator

import pytest
import torch

from pharos.ops.native import library
from pharos.ops.native.build import BuildError, find_compiler


@pytest.fixture(autouse=True)
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def native() -> None:
    if library() is None:
        pytest.skip("there are no native kernels here")


@pytest.fixture
def compiler() -> None:
    try:
        find_compiler()
    except BuildError:
        pytest.skip("there is no C compiler")
