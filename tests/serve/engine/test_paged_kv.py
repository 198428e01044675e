import math
from pathlib import Path

import pytest
import torch

from pharos.models.family import AttentionShape
from pharos.serve.engine import paged_kv
from pharos.serve.engine.paged_kv import PagedKV, block_bytes, free_memory, num_blocks_in
from pharos.serve.engine.plan import Move

SHAPES = [AttentionShape(4, 2, 8, is_cached=True), AttentionShape(4, 1, 16, is_cached=True)]


def random_kv(*, num_host_blocks: int = 4, dtype: torch.dtype = torch.bfloat16) -> PagedKV:
    kv = PagedKV(SHAPES, num_blocks=6, block_size=4, num_host_blocks=num_host_blocks, dtype=dtype)
    for i, layer in enumerate(kv.layers_2GPCK):
        layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(i)))
    return kv


def test_a_block_comes_back_from_the_host_as_it_went() -> None:
    kv = random_kv()
    before = [layer.clone() for layer in kv.layers_2GPCK]
    kv.move([Move("out", 5, 0), Move("out", 2, 3)])
    for layer in kv.layers_2GPCK:
        layer[:, :, [2, 5]] = float("nan")
    kv.move([Move("in", 1, 3), Move("in", 4, 0)])
    for layer, old in zip(kv.layers_2GPCK, before, strict=True):
        assert torch.equal(layer[:, :, 1], old[:, :, 2])
        assert torch.equal(layer[:, :, 4], old[:, :, 5])
        assert torch.equal(layer[:, :, [0, 3]], old[:, :, [0, 3]])


def test_moves_are_made_in_their_order() -> None:
    """A block may come in from where another then goes, and go where another came from."""
    kv = random_kv()
    before = [layer.clone() for layer in kv.layers_2GPCK]
    kv.move([Move("out", 0, 1), Move("in", 3, 1), Move("out", 2, 1), Move("in", 0, 1)])
    for layer, old in zip(kv.layers_2GPCK, before, strict=True):
        assert torch.equal(layer[:, :, 3], old[:, :, 0])
        assert torch.equal(layer[:, :, 0], old[:, :, 2])


def test_no_moves_need_no_host_memory() -> None:
    random_kv(num_host_blocks=0).move([])


def test_a_block_takes_what_its_tensors_take() -> None:
    kv = random_kv(num_host_blocks=0)
    assert kv.num_bytes == 6 * block_bytes(SHAPES, block_size=4, dtype=torch.bfloat16)


def test_the_scratch_block_is_none_of_those_that_are_given_out() -> None:
    kv = PagedKV(SHAPES, num_blocks=6, block_size=4, with_scratch=True)
    assert (kv.num_blocks, kv.scratch_block) == (6, 6)
    assert kv.num_bytes == 7 * block_bytes(SHAPES, block_size=4)


def test_a_budget_is_filled_with_blocks() -> None:
    size = block_bytes(SHAPES, block_size=4)
    assert num_blocks_in(10 * size + 1, SHAPES, block_size=4, max_tokens=40) == 10


@pytest.mark.parametrize(
    ("num_blocks", "message"),
    [
        (10, r"hold 40 tokens; one sequence of 41 takes .*, or set max_model_len to at most 40$"),
        (0, r"hold 0 tokens; one sequence of 41 takes .*: free some memory$"),
    ],
)
def test_a_budget_that_no_sequence_fits_in_is_refused(num_blocks: int, message: str) -> None:
    budget = num_blocks * block_bytes(SHAPES, block_size=4)
    with pytest.raises(ValueError, match=message):
        num_blocks_in(budget, SHAPES, block_size=4, max_tokens=41)


def test_a_model_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="serve a decoder"):
        PagedKV([AttentionShape(4, 4, 8)], num_blocks=1, block_size=1)


@pytest.mark.parametrize("counts", [(0, 4), (4, 0)])
def test_no_blocks_at_all_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        PagedKV(SHAPES, num_blocks=counts[0], block_size=counts[1])


def test_some_of_the_machines_memory_is_free() -> None:
    assert 0 < free_memory(torch.device("cpu")) < 1 << 50


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_kv, "_left_to_container", lambda: 1000)
    assert free_memory(torch.device("cpu")) == 400


def test_files_that_were_read_do_not_count_against_a_containers_limit(tmp_path: Path) -> None:
    assert paged_kv._left_to_container(tmp_path) == math.inf
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 150\nactive_file 50\ninactive_file 500\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert paged_kv._left_to_container(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert paged_kv._left_to_container(tmp_path) == 800
