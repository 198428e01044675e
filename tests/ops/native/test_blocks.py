"""A block in one call gives what its layers give one by one.

Shapes: N rows of a flat batch, D hidden width, P blocks of C tokens, G key-value heads, K head
width.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pharos.models.family import AttentionShape
from pharos.models.llama import Llama, LlamaBlock, LlamaConfig
from pharos.ops.int8 import quantize_weight
from pharos.ops.masks import Causal, Window
from pharos.ops.native import (
    Matrices,
    NativeBlocks,
    NativeMatrix,
    NativePass,
    Norm,
    Parts,
    int8_rows_matrix,
    library,
)
from pharos.ops.norms import RMSNorm
from pharos.ops.paged_attention import FlatBatch, Segment
from pharos.ops.positions import Rope, RopeScaling
from pharos.serve.engine.paged_cache import PagedCache
from pharos.serve.engine.paged_kv import PagedKV

pytestmark = pytest.mark.usefixtures("native")

TABLES = ([7, 2, 9, 4, 0, 11], [5, 1, 10, 3, 8, 6])
BATCHES = {
    "the first token": [Segment(TABLES[0], 0, 1)],
    "one token": [Segment(TABLES[0], 17, 1)],
    "drafts": [Segment(TABLES[0], 14, 8)],
    "two sequences": [Segment(TABLES[0], 20, 1), Segment(TABLES[1], 3, 1)],
    "two with drafts": [Segment(TABLES[0], 2, 3), Segment(TABLES[1], 15, 5)],
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "head norms": {"qk_norm": True},
    "a window": {"windows": (6,)},
    "one key for all": {"num_key_value_heads": 1},
    "a key each": {"num_key_value_heads": 4},
    "heads of 64": {"head_dim": 64, "rope": Rope(width=64)},
    "heads of 92, which are no whole vectors": {"head_dim": 92, "rope": Rope(width=92)},
    "heads of 128": {"head_dim": 128, "rope": Rope(width=128)},
    "part of a head turns": {"rope": Rope(width=8)},
    "yarn": {
        "rope": Rope(
            width=12, scaling=RopeScaling(kind="yarn", factor=4.0, original_max_positions=16)
        )
    },
}


def block_of(kind: str) -> LlamaBlock:
    settings: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 52,
        "intermediate_size": 70,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "rope": Rope(width=12),
        "windows": (None,),
    }
    torch.manual_seed(0)
    config = LlamaConfig(**settings | KINDS[kind])
    (block,) = Llama(config).eval().requires_grad_(False).blocks
    assert isinstance(block, LlamaBlock)
    block.rope = config.rope  # type: ignore[assignment]
    for parameter in block.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return block


def native_of(block: LlamaBlock) -> NativeBlocks:
    """Its weights are rounded to bytes, and stay so in the block: both have the same."""

    def norm(module: nn.Module) -> Norm | None:
        return Norm(module.weight, module.eps) if isinstance(module, RMSNorm) else None

    def matrix(linear: nn.Linear) -> NativeMatrix:
        codes_OI, scale_O = quantize_weight(linear.weight)
        linear.weight.copy_(codes_OI * scale_O[:, None])
        made = int8_rows_matrix(codes_OI, scale_O, linear.bias)
        assert made is not None
        return made

    attention, mlp, loaded = block.attention, block.mlp, library()
    attention_norm, mlp_norm = norm(block.attention_norm), norm(block.mlp_norm)
    assert loaded is not None and attention_norm is not None and mlp_norm is not None
    return NativeBlocks(
        loaded,
        [
            Parts(
                Matrices(
                    query=matrix(attention.query),
                    key=matrix(attention.key),
                    value=matrix(attention.value),
                    out=matrix(attention.out),
                    gate=matrix(mlp.gate),
                    up=matrix(mlp.up),
                    down=matrix(mlp.down),
                ),
                attention_norm=attention_norm,
                mlp_norm=mlp_norm,
                query_norm=norm(attention.query_norm),
                key_norm=norm(attention.key_norm),
                head_dim=attention.head_dim,
                look_back=attention.window.left if isinstance(attention.window, Window) else None,
            )
        ],
    )


def memory_of(block: LlamaBlock, dtype: torch.dtype) -> PagedKV:
    groups = block.attention.key.out_features // block.attention.head_dim
    shape = AttentionShape(4, groups, block.attention.head_dim, is_cached=True)
    kv = PagedKV([shape], num_blocks=12, block_size=4, dtype=dtype)
    kv.layers_2GPCK[0].copy_(torch.randn(kv.layers_2GPCK[0].shape))
    return kv


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_block_equals_its_plain_twin_and_stores_the_same_keys(kind: str, batch: str) -> None:
    segments = BATCHES[batch]
    for dtype in (torch.float32, torch.bfloat16):
        block = block_of(kind)
        native = native_of(block)
        rope: Any = block.rope
        positions = [s.start + i for s in segments for i in range(s.num_tokens)]
        rotate = rope.rotation(torch.tensor([positions]), dtype=dtype)
        x_1ND = torch.randn(1, len(positions), 52).to(dtype)
        kv, plain_kv = memory_of(block, dtype), memory_of(block, dtype)
        kv.layers_2GPCK[0].copy_(plain_kv.layers_2GPCK[0])
        expected = block.to(dtype)(x_1ND, rotate, Causal(), PagedCache(plain_kv, segments))
        flat = FlatBatch(segments, block_size=4)
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            rows = NativePass(flat, rotate, dtype)
            assert native.takes(x_1ND, kv.layers_2GPCK)
            found = native(x_1ND, kv.layers_2GPCK, rows)
            assert_near(found, expected)
            assert_near(kv.layers_2GPCK[0], plain_kv.layers_2GPCK[0])


def assert_near(found: Tensor, expected: Tensor) -> None:
    """In bfloat16 both round on the way, and the twin its weights too."""
    if found.dtype == torch.float32:
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)
    else:
        similar = torch.cosine_similarity(found.float(), expected.float(), dim=-1)
        assert similar.min() > 0.998


@torch.inference_mode()
def test_a_row_depends_on_nothing_beside_it() -> None:
    block = block_of("llama")
    native, rope = native_of(block), Rope(width=12)
    segments = BATCHES["two with drafts"]
    kv, again = memory_of(block, torch.float32), memory_of(block, torch.float32)
    again.layers_2GPCK[0].copy_(kv.layers_2GPCK[0])
    x_1ND = torch.randn(1, 8, 52)

    def run(memory: PagedKV, few: list[Segment], x: Tensor) -> Tensor:
        positions = [s.start + i for s in few for i in range(s.num_tokens)]
        rotate = rope.rotation(torch.tensor([positions]))
        rows = NativePass(FlatBatch(few, block_size=4), rotate, torch.float32)
        return native(x, memory.layers_2GPCK, rows)

    together = run(kv, segments, x_1ND)
    alone = [run(again, segments[:1], x_1ND[:, :3]), run(again, segments[1:], x_1ND[:, 3:])]
    assert torch.equal(torch.cat(alone, dim=1), together)
    assert torch.equal(kv.layers_2GPCK[0], again.layers_2GPCK[0])


@torch.inference_mode()
def test_what_was_never_written_is_not_read() -> None:
    block = block_of("llama")
    native, segments = native_of(block), [Segment([3, 1], 0, 5)]
    kv = memory_of(block, torch.float32)
    kv.layers_2GPCK[0].fill_(torch.nan)
    rotate = Rope(width=12).rotation(torch.arange(5)[None])
    rows = NativePass(FlatBatch(segments, block_size=4), rotate, torch.float32)
    assert native(torch.randn(1, 5, 52), kv.layers_2GPCK, rows).isfinite().all()


def test_rows_of_another_kind_are_not_taken() -> None:
    block = block_of("llama")
    native, kv = native_of(block), memory_of(block, torch.float32).layers_2GPCK
    assert not native.takes(torch.zeros(1, 9, 52), kv)
    assert not native.takes(torch.zeros(1, 0, 52), kv)
    assert not native.takes(torch.zeros(2, 1, 52), kv)
    assert not native.takes(torch.zeros(1, 1, 52).bfloat16(), kv)
