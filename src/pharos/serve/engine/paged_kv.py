"""The memory of keys and values: blocks of equally many tokens on the device, and a second tier of
them in the host's memory.

    kv = PagedKV(model.body.attention_shapes(), num_blocks=1000, block_size=16)
    kv.move([Move("out", device_block=7, host_block=0)])

Which block belongs to whom the scheduler knows; here are only the tensors. Each layer has one,
`[2, G, P, C, K]`, so that in blocks that follow each other a head's keys are one stretch.

Shapes: P blocks of C tokens, G key-value heads, K head width.
"""

import math
import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from pharos.models.family import AttentionShape
from pharos.serve.engine.plan import Move

GIB = 1 << 30
MEMORY_SHARE = 0.9
"""Of what is free on a GPU; the rest is for what a step computes."""
HOST_SHARE = 0.4
"""Of what is free on a CPU, where other programs live too."""
CONTROL_GROUP = Path("/sys/fs/cgroup")


class PagedKV:
    """`num_blocks` blocks on the device, with the numbers 0 to `num_blocks - 1`, and
    `num_host_blocks` in the host's memory; `with_scratch`, one more on the device for what nobody
    will read. What a block holds before it is written is undefined."""

    def __init__(
        self,
        shapes: Sequence[AttentionShape],
        *,
        num_blocks: int,
        block_size: int,
        num_host_blocks: int = 0,
        with_scratch: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if num_blocks < 1 or block_size < 1 or num_host_blocks < 0:
            raise ValueError(
                f"{num_blocks} blocks of {block_size} tokens, {num_host_blocks} in the host's "
                "memory: there must be at least one block of at least one token"
            )
        self.num_blocks, self.block_size = num_blocks, block_size
        self.num_host_blocks = num_host_blocks
        self.with_scratch = with_scratch
        is_pinned = device is not None and device.type == "cuda"
        self.layers_2GPCK: list[Tensor] = []
        self.host_layers_2GPCK: list[Tensor] = []
        for shape in cached(shapes):
            groups, of_block = shape.num_kv_heads, (block_size, shape.head_dim)
            on_device = (2, groups, num_blocks + with_scratch, *of_block)
            layer = torch.empty(on_device, dtype=dtype, device=device)
            host = torch.empty(
                2, groups, num_host_blocks, *of_block, dtype=dtype, pin_memory=is_pinned
            )
            self.layers_2GPCK.append(layer)
            self.host_layers_2GPCK.append(host)
        self.device = self.layers_2GPCK[0].device

    @property
    def scratch_block(self) -> int:
        """The number of the block that no sequence has."""
        assert self.with_scratch, "these blocks were made without one"
        return self.num_blocks

    @property
    def num_bytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers_2GPCK + self.host_layers_2GPCK)

    def move(self, moves: Iterable[Move]) -> None:
        """Copy whole blocks between device and host, in the order given: one copy a layer for
        neighbouring moves in one direction."""
        for direction, group in groupby(moves, key=lambda move: move.direction):
            pairs = [(move.device_block, move.host_block) for move in group]
            on_device = torch.tensor([pair[0] for pair in pairs], device=self.device)
            on_host = torch.tensor([pair[1] for pair in pairs])
            for layer, host in zip(self.layers_2GPCK, self.host_layers_2GPCK, strict=True):
                if direction == "out":
                    host.index_copy_(2, on_host, layer.index_select(2, on_device).cpu())
                else:
                    moved = host.index_select(2, on_host).to(self.device)
                    layer.index_copy_(2, on_device, moved)


def cached(shapes: Sequence[AttentionShape]) -> list[AttentionShape]:
    """The layers whose keys are kept. Raises ValueError if there are none: not a decoder."""
    kept = [shape for shape in shapes if shape.is_cached]
    if not kept:
        raise ValueError("the model keeps no keys: an encoder needs no cache; serve a decoder")
    return kept


def block_bytes(
    shapes: Sequence[AttentionShape], *, block_size: int, dtype: torch.dtype = torch.float32
) -> int:
    """What a block takes, in all layers."""
    per_token = sum(2 * shape.num_kv_heads * shape.head_dim for shape in cached(shapes))
    return block_size * per_token * dtype.itemsize


def num_blocks_in(
    budget: int,
    shapes: Sequence[AttentionShape],
    *,
    block_size: int,
    max_tokens: int,
    dtype: torch.dtype = torch.float32,
) -> int:
    """How many blocks fit in `budget` bytes. Raises ValueError if a single sequence of `max_tokens`
    does not."""
    size = block_bytes(shapes, block_size=block_size, dtype=dtype)
    count, needed = budget // size, -(-max_tokens // block_size)
    if count < needed:
        room = count * block_size
        or_shorter = f", or set max_model_len to at most {room:,}" if room else ""
        raise ValueError(
            f"{budget / GIB:.2f} GiB for keys and values hold {room:,} tokens; one sequence of "
            f"{max_tokens:,} takes {needed * size / GIB:.2f} GiB: free some memory{or_shorter}"
        )
    return count


def free_memory(device: torch.device) -> int:
    """The bytes that a cache may take on this device: a share of what is free now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * MEMORY_SHARE)
    return int(_free_host_memory() * HOST_SHARE)


def _free_host_memory() -> float:
    """What programs can still take: as Linux estimates it, and within the limit of a container.
    Where there is no such estimate, half of the machine's memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return min(kib["MemAvailable"] * 1024, _left_to_container())


def _left_to_container(group: Path = CONTROL_GROUP) -> float:
    """Of control groups, version 2; without a limit, any amount. What is kept of files that were
    read (those of the model, say) counts as used, and goes when room is asked for."""
    names = ("memory.max", "memory.current", "memory.stat")
    try:
        limit, used, stat = ((group / name).read_text() for name in names)
    except FileNotFoundError:
        return math.inf
    if limit.strip() == "max":
        return math.inf
    counts = dict(line.split() for line in stat.splitlines())
    return int(limit) - int(used) + int(counts["inactive_file"])
