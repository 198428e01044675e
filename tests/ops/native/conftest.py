"""Tests of kernels run where there are any, on as many threads as they ask for."""

from collections.abc import Iterator

import pytest
import torch

from pharos.ops.native import library


@pytest.fixture(autouse=True)
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def native() -> None:
    if library() is None:
        pytest.skip("there are no native kernels here")
