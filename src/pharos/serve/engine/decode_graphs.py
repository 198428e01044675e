"""CUDA graphs: the steps in which every sequence writes one token are recorded once, and replayed.

Such a step computes little and launches much: a dozen kernels a layer, each of which takes a GPU
less time than it takes Python to launch it. A CUDA graph is a whole pass of launches that goes off
in one call. It remembers shapes and addresses, and no values, so

- there is a graph for each of a ladder of batch sizes, and a step is padded to the next of them;
- what differs between steps (the token of each row, its position, the blocks of its sequence) is
  written into one tensor that stays where it is, and the rest is computed from it on the device;
- rows of padding read and write a block that no sequence has (`PagedKV.scratch_block`);
- nothing within asks the host, or copies from it (`obstacle` says which models cannot do so).

    graphs = DecodeGraphs(model, kv, GraphSizes.up_to(64, max_len=4096))
    if graphs.take(batch):
        x_RD = graphs.run(batch)

The head stays outside: its logits would be the largest tensor of a graph, and padding needs none.
So do prompts, drafts that are checked, and adapters: `Runner` computes such steps as ever.

On a CPU there is nothing to record. The same pass over the same tensor is computed each time, which
is how tests hold it against `Runner`. No GPU has replayed these graphs yet.

Shapes: N rows with padding, R rows without, X what is told of a row, D hidden width.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pharos.models.heads import CausalLM
from pharos.ops.attention.triton import can_use_triton
from pharos.ops.experts import MixtureOfExperts
from pharos.ops.paged_attention import DecodeBatch
from pharos.ops.paged_attention.triton import decode_bytes
from pharos.serve.engine.adapters import BASE
from pharos.serve.engine.batch import Batch, Row
from pharos.serve.engine.paged_cache import DecodeCache
from pharos.serve.engine.paged_kv import GIB, PagedKV, block_bytes

MOST_ROWS = 256
MOST_TOKENS = 8192
"""Of a sequence: a graph reserves room, and launches programs, for the longest that it takes."""
SMALL, STEP = (1, 2, 4, 8), 16

Pass = Callable[[], None]

log = logging.getLogger(__name__)


class GraphSizes(NamedTuple):
    """The batch sizes of which there are graphs, in order, and the longest sequence that they
    take."""

    rows: tuple[int, ...]
    max_len: int

    @classmethod
    def up_to(cls, num_rows: int, *, max_len: int | None) -> "GraphSizes":
        """For steps of as many rows, and sequences as long, as pays."""
        most = min(num_rows, MOST_ROWS)
        smaller = (size for size in (*SMALL, *range(STEP, most, STEP)) if size < most)
        return cls((*smaller, most), min(max_len or MOST_TOKENS, MOST_TOKENS))

    def num_blocks(self, block_size: int) -> int:
        """Of the longest sequence."""
        return -(-self.max_len // block_size)

    def num_bytes(self, model: CausalLM, block_size: int) -> int:
        """What is held for them as long as the engine lives: the scratch block, and the parts of
        attention, which the layers share. The rest of what so few rows need is small."""
        shapes = model.body.attention_shapes()
        longest = self.num_blocks(block_size) * block_size
        parts = [
            decode_bytes(self.rows[-1], longest, heads=heads, groups=groups, width=width)
            for heads, groups, width, *_ in shapes
        ]
        return max(parts) + block_bytes(shapes, block_size=block_size, dtype=model.dtype)


def obstacle(model: CausalLM) -> str | None:
    """Why a model's passes cannot be recorded, if so."""
    if any(isinstance(module, MixtureOfExperts) for module in model.modules()):
        return "a mixture of experts asks the device how many tokens each of them got"
    if getattr(model.config, "alibi", False):
        return "ALiBi copies its slopes to the device in each pass"
    like = model.body.embedding.weight
    widest = max(shape.head_dim for shape in model.body.attention_shapes())
    query = torch.empty(1, 1, 0, widest, dtype=model.dtype, device=like.device)
    if like.is_cuda and not can_use_triton(query):
        return f"there are no attention kernels for heads of {widest} in {model.dtype} on this GPU"
    return None


class DecodeGraphs:
    """The graphs of one model over its blocks, recorded here and now. Raises ValueError for a model
    that has an `obstacle`, and what the device or the compiler of a kernel raises."""

    def __init__(self, model: CausalLM, kv: PagedKV, sizes: GraphSizes) -> None:
        reason = obstacle(model)
        if reason is not None:
            raise ValueError(f"{reason}; run this model without CUDA graphs")
        self.sizes = sizes
        self._body = model.body
        self._kv = kv
        self._padding = (0, 0, kv.scratch_block)
        row = (*self._padding[:2], *[kv.scratch_block] * sizes.num_blocks(kv.block_size))
        self._told_NX = torch.tensor([row] * sizes.rows[-1], dtype=torch.int32)
        self._rows_NX = self._told_NX.to(kv.device, copy=True)
        self._x_ND = torch.empty(
            sizes.rows[-1], model.config.hidden_size, dtype=model.dtype, device=kv.device
        )
        self._passes: dict[int, Pass] = {size: partial(self._compute, size) for size in sizes.rows}
        if kv.device.type != "cpu":
            self._passes = record_all(self._passes, kv.device)

    def take(self, batch: Batch) -> bool:
        """Whether each row is one token of the base model, and there are not too many or too long
        ones."""
        return 0 < len(batch.rows) <= self.sizes.rows[-1] and all(map(self._takes, batch.rows))

    def run(self, batch: Batch) -> Tensor:
        """The last hidden states of the rows, `[R, D]`: until the next run, which writes over
        them."""
        num_rows = len(batch.rows)
        size = self.sizes.rows[bisect_left(self.sizes.rows, num_rows)]
        self._tell(batch.rows, size)
        self._passes[size]()
        return self._x_ND[:num_rows]

    def _takes(self, row: Row) -> bool:
        is_one = len(row.ids) == row.num_logits == 1
        return is_one and row.adapter == BASE and row.start < self.sizes.max_len

    def _tell(self, rows: list[Row], size: int) -> None:
        """What follows a row's blocks is left from before: nobody looks there."""
        told_NX = self._told_NX.numpy()
        for i, row in enumerate(rows):
            num_blocks = row.start // self._kv.block_size + 1
            assert len(row.blocks) >= num_blocks, "its blocks are allocated before it is computed"
            told_NX[i, :2] = row.ids[0], row.start
            told_NX[i, 2 : 2 + num_blocks] = row.blocks[:num_blocks]
        told_NX[len(rows) : size, :3] = self._padding
        self._rows_NX[:size].copy_(self._told_NX[:size])

    def _compute(self, size: int) -> None:
        """A pass over the first rows of the tensor, whatever stands in them. This is recorded."""
        rows_NX = self._rows_NX[:size]
        ids_N, positions_N = rows_NX[:, :2].long().unbind(1)
        batch = DecodeBatch(positions_N, rows_NX[:, 2:], block_size=self._kv.block_size)
        x_1ND = self._body(
            ids_N[None], positions_BT=positions_N[None], cache=DecodeCache(self._kv, batch)
        )
        self._x_ND[:size].copy_(x_1ND[0])


def record_all(passes: dict[int, Pass], device: torch.device) -> dict[int, Pass]:
    """The largest is first: the others find room in the memory that it took. All on one stream,
    since libraries keep memory for each."""
    free, _ = torch.cuda.mem_get_info(device)
    stays = torch.cuda.stream(torch.cuda.current_stream(device))  # also where recording fails
    with torch.cuda.device(device), stays, torch.inference_mode():
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        sizes = sorted(passes, reverse=True)
        graphs = {size: _record(passes[size], stream, pool) for size in sizes}
    taken = (free - torch.cuda.mem_get_info(device)[0]) / GIB
    log.info("CUDA graphs of %d batch sizes are recorded, in %.2f GiB", len(graphs), taken)
    return graphs


def _record(compute: Pass, stream: torch.cuda.Stream, pool: Any) -> Pass:
    """What `compute` launches, as one call. It runs once before: that compiles kernels and loads
    libraries, which cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        compute()
    return graph.replay
