"""Masks of every kind and their compositions, for hypothesis."""

import torch
from hypothesis import strategies as st

from pharos.ops.masks import (
    BlockTable,
    Causal,
    Documents,
    Full,
    Global,
    Mask,
    Strided,
    Valid,
    Window,
)

seeds = st.integers(0, 2**32 - 1)


def relative_masks() -> st.SearchStrategy[Mask]:
    """Those that look at the distance only."""
    width = st.integers(0, 40)
    return st.one_of(
        st.just(Full()),
        st.just(Causal()),
        st.builds(Window, width, width),
        st.builds(Strided, st.integers(1, 50)),
    )


@st.composite
def absolute_masks(draw: st.DrawFn, *, sequences: int, heads: int, length: int) -> Mask:
    """Those that hold something of each position, sequence or head."""
    generator = torch.Generator().manual_seed(draw(seeds))
    kind = draw(st.sampled_from(["documents", "valid", "padded", "global", "blocks"]))
    shape = (draw(st.sampled_from([1, sequences])), length)
    if kind == "documents":
        return Documents(torch.randint(0, 4, shape, generator=generator).sort(dim=1).values)
    if kind == "blocks":
        size = draw(st.integers(3, 40))
        across = -(-length // size)
        table = torch.rand(draw(st.sampled_from([1, heads])), across, across, generator=generator)
        return BlockTable(size, table > 0.5)
    if kind == "padded":
        lengths_B1 = torch.randint(0, length + 1, (shape[0], 1), generator=generator)
        return Valid(torch.arange(length) < lengths_B1)
    share = draw(st.sampled_from([0.02, 0.5]))
    marked_BT = torch.rand(shape, generator=generator) < share
    return Global(marked_BT) if kind == "global" else Valid(marked_BT)


def masks(*, sequences: int, heads: int, length: int) -> st.SearchStrategy[Mask]:
    absolute = absolute_masks(sequences=sequences, heads=heads, length=length)
    return st.recursive(
        relative_masks() | absolute,
        lambda some: (
            st.builds(lambda a, b: a & b, some, some) | st.builds(lambda a, b: a | b, some, some)
        ),
        max_leaves=3,
    )
