"""A decoder's few-row passes by native kernels (`pharos.ops.native`), swapped in from outside.

    use_native(model)       # after its linears were converted

Linears that know how their weights lie (`native_matrix`) multiply one to eight rows themselves.
Blocks of the Llama family whose linears all do take such rows through the whole block in one call,
when they are asked for over paged keys. Everything else goes the usual way: prompts, other caches
and masks, and a block of which some part has been replaced (an adapter, a share of a split model).

Shapes: B sequences, T tokens, D hidden width.
"""

from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from pharos.models.heads import CausalLM
from pharos.models.kv_cache import Cache
from pharos.models.llama import Llama, LlamaAttention, LlamaBlock
from pharos.ops.feed_forward import GatedFeedForward
from pharos.ops.masks import Causal, Mask, Window
from pharos.ops.native import Matrices, NativeBlock, NativeMatrix, NativePass, Norm, Parts, library
from pharos.ops.norms import RMSNorm
from pharos.ops.paged_attention import FlatBatch
from pharos.ops.positions import Rotation

SILU = ("silu", "swish")


@runtime_checkable
class FewRowLinear(Protocol):
    """A linear that multiplies few rows by `few_rows`, if it has one."""

    few_rows: NativeMatrix | None

    def native_matrix(self) -> NativeMatrix | None: ...


class Paged(Protocol):
    """A cache whose keys stand in blocks, those of a layer in one tensor `[2, G, P, C, K]`."""

    def pages(self, layer: int) -> tuple[Tensor, FlatBatch]: ...


def use_native(model: CausalLM) -> None:
    """Nothing is done where there are no native kernels."""
    if library() is None:
        return
    for module in model.modules():
        if isinstance(module, FewRowLinear):
            module.few_rows = module.native_matrix()
    if isinstance(model.body, Llama):
        blocks = model.body.blocks
        for i, block in enumerate(blocks):
            if type(block) is LlamaBlock and native_block(block) is not None:
                blocks[i] = NativeLlamaBlock(block)


class NativeLlamaBlock(LlamaBlock):
    """It has the parts of the block that it stands for, under the same names."""

    def __init__(self, block: LlamaBlock) -> None:
        nn.Module.__init__(self)
        for name, part in block.named_children():
            setattr(self, name, part)
        self.native = native_block(block)
        self._parts = list(_parts(self))
        self.training = block.training

    def forward(self, x_BTD: Tensor, rotate: Rotation, mask: Mask, cache: Cache | None) -> Tensor:
        native, pages = self.native, getattr(cache, "pages", None)
        if pages is not None and native is not None and type(mask) is Causal and self._is_whole():
            kv_2GPCK, batch = cast(Paged, cache).pages(self.attention.layer)
            if native.takes(x_BTD, kv_2GPCK):
                rows = NativePass.of(batch, rotate, x_BTD.dtype)
                return native(x_BTD, kv_2GPCK, rows)
        return super().forward(x_BTD, rotate, mask, cache)

    def _is_whole(self) -> bool:
        """Whether its parts are still those that the kernels have the weights of."""
        return all(now is then for now, then in zip(_parts(self), self._parts, strict=True))


def native_block(block: LlamaBlock) -> NativeBlock | None:
    """None for a block that the kernels do not know, or some of whose linears are not native."""
    attention, mlp, loaded = block.attention, block.mlp, library()
    linears = [*_linears(attention), *_linears(mlp)]
    matrices = [getattr(linear, "few_rows", None) for linear in linears]
    is_known = type(mlp) is GatedFeedForward and mlp.activation in SILU and not attention.dropout
    if loaded is None or not is_known or not all(matrices) or len(matrices) != 7:
        return None
    window = attention.window
    parts = Parts(
        Matrices(*cast(list[NativeMatrix], matrices)),
        attention_norm=cast(Norm, _norm(block.attention_norm)),
        mlp_norm=cast(Norm, _norm(block.mlp_norm)),
        query_norm=_norm(attention.query_norm),
        key_norm=_norm(attention.key_norm),
        head_dim=attention.head_dim,
        look_back=window.left if isinstance(window, Window) else None,
    )
    return NativeBlock(loaded, parts)


def _linears(part: LlamaAttention | GatedFeedForward) -> list[nn.Module]:
    """In the order of `Matrices`."""
    names = ("query", "key", "value", "out", "gate", "up", "down")
    return [part.get_submodule(name) for name in names if name in part._modules]


def _norm(norm: nn.Module) -> Norm | None:
    return Norm(norm.weight, norm.eps) if isinstance(norm, RMSNorm) else None


def _parts(block: LlamaBlock) -> list[nn.Module | None]:
    """Looked up as a module's attributes are, without the detours of `__getattr__`."""
    parts = block._modules
    attention, mlp = parts["attention"], parts["mlp"]
    assert attention is not None and mlp is not None
    norms = (parts["attention_norm"], parts["mlp_norm"])
    return [attention, mlp, *norms, *attention._modules.values(), *mlp._modules.values()]
