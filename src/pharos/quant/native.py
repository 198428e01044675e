"""A decoder's passes by native kernels (`pharos.ops.native`), swapped in from outside.

    use_native(model)       # after its linears were converted

Linears that know how their weights lie (`native_matrix`) multiply few rows themselves: up to eight;
where the processor multiplies what the weights are (bfloat16, bytes) any number of them, of which
up to 64 are few. The body of a Llama, Mistral or Qwen whose linears all do takes few rows through
its blocks in one call, when it is asked for over paged keys. Everything else goes through its
blocks the usual way: prompts, other caches and masks, and a model of which some part has been
replaced (by an adapter, or by the share of a split one). On that way norms and gates have kernels
of their own.

Shapes: B sequences, T tokens, D hidden width.
"""

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from pharos.models.heads import CausalLM
from pharos.models.kv_cache import Cache, next_positions
from pharos.models.llama import Llama, LlamaBlock
from pharos.ops.feed_forward import ACTIVATIONS, GatedFeedForward
from pharos.ops.masks import Causal, Mask, Window
from pharos.ops.native import (
    Matrices,
    NativeBlocks,
    NativeMatrix,
    NativePass,
    Norm,
    Parts,
    library,
    norm_rows,
    silu_and_mul,
    swiglu,
    takes_rows,
)
from pharos.ops.norms import RMSNorm
from pharos.ops.paged_attention import FlatBatch

SILU = ("silu", "swish")
MOST_OF_ONE = 12
"""So many tokens of one sequence are no prompt yet; tokens of a prompt share the keys they see, and
the kernels would read these for each of them. (Behind 1,000 keys sixteen take as long either way,
behind 4,000 twelve.)"""


@runtime_checkable
class NativeLinear(Protocol):
    """A linear that multiplies by `native`, if it has one, what that takes."""

    native: NativeMatrix | None

    def native_matrix(self) -> NativeMatrix | None: ...


class Paged(Protocol):
    """A cache whose keys stand in blocks: a tensor `[2, G, P, C, K]` for each layer, always in the
    same list, and whose rows the new ones are."""

    def pages(self) -> tuple[Sequence[Tensor], FlatBatch]: ...


def use_native(model: CausalLM) -> None:
    """Norms and gated feed-forwards become native ones, in place, with the parts that they had; so
    does the body. Nothing is done where there are no native kernels."""
    if library() is None:
        return
    for module in list(model.modules()):
        if isinstance(module, NativeLinear):
            module.native = module.native_matrix()
        for name, part in module.named_children():
            if type(part) is RMSNorm:
                setattr(module, name, NativeRMSNorm(part))
            elif type(part) is GatedFeedForward and part.activation in SILU:
                setattr(module, name, NativeGatedFeedForward(part))
    if type(model.body) is Llama and (native := native_blocks(model.body)) is not None:
        model.body = NativeLlama(model.body, native)


class NativeRMSNorm(RMSNorm):
    """It has the weight of the norm that it stands for."""

    def __init__(self, norm: RMSNorm) -> None:
        nn.Module.__init__(self)
        self.eps, self.weight = norm.eps, norm.weight
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if takes_rows(x, self.weight):
            return norm_rows(x, self.weight, self.eps)
        return super().forward(x)


class NativeGatedFeedForward(GatedFeedForward):
    """It has the parts of the feed-forward that it stands for, under the same names. Whoever
    watches gate or up (by a hook) sees their outputs, which there are not otherwise."""

    def __init__(self, mlp: GatedFeedForward) -> None:
        nn.Module.__init__(self)
        self.activation = mlp.activation
        for name, part in mlp.named_children():
            setattr(self, name, part)
        self.train(mlp.training)

    def forward(self, x_D: Tensor) -> Tensor:
        y_D: Tensor = self.down(self.dropout(self._hidden(x_D)))
        return y_D

    def _hidden(self, x_D: Tensor) -> Tensor:
        gate, up = _matrix(self.gate), _matrix(self.up)
        if gate is None or up is None or _is_watched(self.gate) or _is_watched(self.up):
            return self._plain(self.gate(x_D), self.up(x_D))
        if gate.takes_many(x_D) and gate.lies_as(up):
            return swiglu(gate, up, x_D)
        gate_F, up_F = self.gate(x_D), self.up(x_D)
        is_native = takes_rows(gate_F, up_F)
        return silu_and_mul(gate_F, up_F) if is_native else self._plain(gate_F, up_F)

    def _plain(self, gate_F: Tensor, up_F: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](gate_F) * up_F


class NativeLlama(Llama):
    """It has the parts of the body that it stands for, under the same names. A copy of it goes the
    usual way (`native` is None)."""

    def __init__(self, body: Llama, native: NativeBlocks) -> None:
        nn.Module.__init__(self)
        self.config = body.config
        for name, part in body.named_children():
            setattr(self, name, part)
        self.native: NativeBlocks | None = native
        self._parts = _parts(self)
        self.train(body.training)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        native = self.native
        is_few = native is not None and ids_BT.numel() <= native.most_rows(self.dtype)
        is_paged = hasattr(cache, "pages") and (mask is None or type(mask) is Causal)
        if native and cache is not None and is_few and is_paged and _parts(self) == self._parts:
            kvs_2GPCK, batch = cast(Paged, cache).pages()
            has_prompts = any(each.num_tokens > MOST_OF_ONE for each in batch.segments)
            if not has_prompts and native.takes(x_BTD := self.embedding(ids_BT), kvs_2GPCK):
                if positions_BT is None:
                    positions_BT = next_positions(ids_BT, cache)
                rotate = self.config.rope.rotation(positions_BT, dtype=x_BTD.dtype)
                rows = NativePass(batch, rotate, x_BTD.dtype)
                x_BTD = native(x_BTD, kvs_2GPCK, rows)
                cache.advance(ids_BT.shape[1])
                y_BTD: Tensor = self.norm(x_BTD)
                return y_BTD
        return super().forward(ids_BT, positions_BT=positions_BT, mask=mask, cache=cache)


def native_blocks(body: Llama) -> NativeBlocks | None:
    """None for a model with a block that the kernels do not know, or whose linears are not native
    all of them."""
    loaded = library()
    blocks = [_block_parts(block) for block in body.blocks if type(block) is LlamaBlock]
    known = [parts for parts in blocks if parts is not None]
    if loaded is None or not known or len(known) < len(body.blocks):
        return None
    return NativeBlocks(loaded, known)


def _block_parts(block: LlamaBlock) -> Parts | None:
    attention, mlp = block.attention, block.mlp
    if type(mlp) is not NativeGatedFeedForward or attention.dropout:
        return None
    linears = (attention.query, attention.key, attention.value, attention.out)
    found = [_matrix(x) for x in (*linears, mlp.gate, mlp.up, mlp.down)]
    if None in found:
        return None
    matrices = Matrices(*cast(list[NativeMatrix], found))
    if not matrices.gate.lies_as(matrices.up):
        return None
    window = attention.window
    return Parts(
        matrices,
        attention_norm=cast(Norm, _norm(block.attention_norm)),
        mlp_norm=cast(Norm, _norm(block.mlp_norm)),
        query_norm=_norm(attention.query_norm),
        key_norm=_norm(attention.key_norm),
        head_dim=attention.head_dim,
        look_back=window.left if isinstance(window, Window) else None,
    )


def _matrix(linear: nn.Module) -> NativeMatrix | None:
    return linear.native if isinstance(linear, NativeLinear) else None


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _norm(norm: nn.Module) -> Norm | None:
    return Norm(norm.weight, norm.eps) if isinstance(norm, RMSNorm) else None


def _parts(body: Llama) -> list[nn.Module | None]:
    """What the kernels stand for: if it is another now, they have the wrong weights. Looked up
    without the detours of a module's attributes, since it is done in every pass."""
    found: list[nn.Module | None] = []
    for block in body.blocks._modules.values():
        assert block is not None
        parts = block._modules
        attention, mlp = parts["attention"], parts["mlp"]
        assert attention is not None and mlp is not None
        found += parts.values()
        found += attention._modules.values()
        found += mlp._modules.values()
    return found
