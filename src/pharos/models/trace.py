"""What a decoder does with a text, seen from outside: where each head looks, and which token each
layer would write next.

    found = trace(model, ids)
    found.attention_LHTT[2, 5, 7, 3]  # token 3's share of what head 5 of layer 2 gathers at token 7
    found.candidates_NTC[-1, 7]       # the likeliest tokens after token 7

The model does not know that it is watched. Its attention layers hand queries and keys to a cache,
and this one (`RecordingCache`) also keeps the weights; hooks take the hidden states between the
blocks. Those become candidates through the model's own last norm and head, as if no block came
after (the "logit lens", nostalgebraist 2020).

Shapes: B sequences (one), T tokens traced, S tokens in all, L layers, N = L + 1 places between
them (before the first block, and after each), H query heads, G key-value heads, K head width,
D hidden width, C candidates.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pharos.models.generation import PREFILL_CHUNK, check_prompt
from pharos.models.heads import CausalLM
from pharos.models.kv_cache import KVCache
from pharos.ops.attention import attention
from pharos.ops.masks import Mask
from pharos.ops.positions import DistanceBias

MOST_TRACED = 128
MOST_NEW = 32
EXPERT = re.compile(r".*\.experts\.\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A tensor on its way through the model: what made it, how long it is along each axis, and how
    many parameters it took."""

    name: str
    axes: tuple[tuple[str, int], ...]
    num_parameters: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trace:
    """`ids` are the tokens traced: the last `MOST_TRACED` of a text, of which `first` came before
    and the last `num_new` are the model's own.

    A row of `attention_LHTT`, with its entry of `before_LHT` (what went to tokens before the
    first), sums to 1. `candidates_NTC` are ids, the likeliest first, and `shares_NTC` their
    probabilities. `stages` are those of one block and of what is around the blocks.
    """

    ids: tuple[int, ...]
    first: int
    num_new: int
    attention_LHTT: Tensor
    before_LHT: Tensor
    candidates_NTC: Tensor
    shares_NTC: Tensor
    stages: tuple[Stage, ...]


@torch.inference_mode()
def trace(
    model: CausalLM,
    prompt: Sequence[int],
    continuation: Sequence[int] = (),
    *,
    num_candidates: int = 5,
) -> Trace:
    """The forward pass over a prompt and (the first `MOST_NEW` tokens of) what the model wrote
    after it. Raises ValueError for a prompt that `Generation` would not take."""
    new = continuation[:MOST_NEW]
    check_prompt(model, prompt, len(new))
    ids = (*prompt, *new)
    first = max(len(ids) - MOST_TRACED, 0)
    ids_BT = torch.tensor([ids], device=model.body.embedding.weight.device)
    stages: list[Stage] = []
    states: list[Tensor] = []
    cache = RecordingCache(num_layers=model.config.num_hidden_layers, first=first, stages=stages)
    for start in range(0, first, PREFILL_CHUNK):
        model.body(ids_BT[:, start : min(start + PREFILL_CHUNK, first)], cache=cache)
    with _watched(model, stages, states):
        model.body(ids_BT[:, first:], cache=cache)
    candidates_NTC, shares_NTC = _lens(model, states, num_candidates)
    stages.append(_logits_stage(model, num_tokens=len(ids) - first))
    attention_LHTS = torch.stack(cache.shares)
    return Trace(
        ids=ids[first:],
        first=first,
        num_new=len(new),
        attention_LHTT=attention_LHTS[..., 1:],
        before_LHT=attention_LHTS[..., 0],
        candidates_NTC=candidates_NTC,
        shares_NTC=shares_NTC,
        stages=tuple(stages),
    )


class RecordingCache(KVCache):
    """Keeps, beside keys and values, how each head of each layer shares its attention out:
    `shares[layer]` is `[H, T, 1 + T]`, for the tokens from number `first` on. The first column is
    what goes to those before."""

    def __init__(self, *, num_layers: int, first: int = 0, stages: list[Stage]) -> None:
        super().__init__(num_layers=num_layers)
        self.first = first
        self.stages = stages
        self.shares: list[Tensor] = []

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        *,
        mask: Mask,
        bias: DistanceBias | None,
        scale: float | None,
    ) -> Tensor:
        k_BGSK, v_BGSK = self.extend(layer, k_BGTK, v_BGTK)
        if self.length >= self.first:
            shares_BHTC = attention(
                q_BHTK.float(),
                k_BGSK,
                self._columns(k_BGSK),
                mask=mask,
                bias=bias,
                scale=scale,
                backend="plain",
            )
            self.shares.append(shares_BHTC[0].cpu())
            if layer == 0:
                self.stages += _attention_stages(q_BHTK, k_BGSK)
        return attention(q_BHTK, k_BGSK, v_BGSK, mask=mask, bias=bias, scale=scale)

    def _columns(self, k_BGSK: Tensor) -> Tensor:
        """Values of which attention's output is its own weights: each token's is a column of the
        identity, and all before the first have one together."""
        num_keys = k_BGSK.shape[2]
        column_S = torch.arange(1 - self.first, num_keys - self.first + 1).clamp(min=0)
        columns_SC = one_hot(column_S, num_keys - self.first + 1).float().to(k_BGSK.device)
        return columns_SC.expand(*k_BGSK.shape[:2], -1, -1)


def _attention_stages(q_BHTK: Tensor, k_BGSK: Tensor) -> Iterator[Stage]:
    _, heads, tokens, width = q_BHTK.shape
    _, groups, keys, _ = k_BGSK.shape
    of_keys = (("key-value heads", groups), ("tokens", keys), ("width", width))
    yield Stage(name="q", axes=(("heads", heads), ("tokens", tokens), ("width", width)))
    yield Stage(name="k", axes=of_keys)
    yield Stage(name="v", axes=of_keys)
    yield Stage(name="weights", axes=(("heads", heads), ("tokens", tokens), ("tokens", keys)))


def _logits_stage(model: CausalLM, num_tokens: int) -> Stage:
    own = 0 if model.lm_head is None else _num_parameters(model.lm_head)
    axes = (("tokens", num_tokens), ("vocabulary", model.config.vocab_size))
    return Stage(name="logits", axes=axes, num_parameters=own)


@contextmanager
def _watched(model: CausalLM, stages: list[Stage], states: list[Tensor]) -> Iterator[None]:
    """While this runs, the hidden states before and after each block `[T, D]` go to `states`, and
    what the parts put out to `stages`."""

    def keep_input(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        states.append(inputs[0][0])

    def keep_output(_: nn.Module, __: object, y_BTD: Tensor) -> None:
        states.append(y_BTD[0])

    blocks = model.body.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    with ExitStack() as hooks:
        hooks.callback(blocks[0].register_forward_pre_hook(keep_input).remove)
        for block in blocks:
            hooks.callback(block.register_forward_hook(keep_output).remove)
        for name, part in _parts(model.body):
            hooks.callback(part.register_forward_hook(_noted(name, stages)).remove)
        yield


def _parts(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What has parameters of its own; of the blocks, the first stands for all. An expert counts as
    a whole, since each meets tokens of its own."""
    for name, part in body.named_modules():
        in_other_block = name.startswith("blocks.") and not name.startswith("blocks.0.")
        in_expert = ".experts." in name and not EXPERT.fullmatch(name)
        if in_other_block or in_expert:
            continue
        is_leaf = next(part.children(), None) is None
        if EXPERT.fullmatch(name) or (is_leaf and _num_parameters(part)):
            yield name, part


def _num_parameters(part: nn.Module) -> int:
    """Those that a conversion has packed are plain tensors of their modules."""
    packed = (x for module in part.modules() for x in vars(module).values())
    tensors = [*part.parameters(), *(x for x in packed if isinstance(x, Tensor))]
    return sum(tensor.numel() for tensor in tensors)


def _noted(name: str, stages: list[Stage]) -> Any:
    """A hook that adds a part's output to `stages`."""

    def note(part: nn.Module, _: object, output: Tensor) -> None:
        sizes = output.shape if output.ndim == 2 else output.shape[1:]
        axes = ("tokens", "width") if len(sizes) == 2 else ("tokens", "heads", "width")
        pairs = tuple(zip(axes, sizes, strict=True))
        stages.append(Stage(name=name, axes=pairs, num_parameters=_num_parameters(part)))

    return note


def _lens(
    model: CausalLM, states_NTD: Sequence[Tensor], num_candidates: int
) -> tuple[Tensor, Tensor]:
    """The likeliest next tokens by each hidden state, and their probabilities: both `[N, T, C]`."""
    norm = model.body.get_submodule("norm")
    best = []
    for x_TD in states_NTD:
        shares_TV = model.logits(norm(x_TD)).float().softmax(dim=-1)
        best.append(shares_TV.topk(min(num_candidates, shares_TV.shape[1]), dim=-1))
    ids_NTC = torch.stack([one.indices.cpu() for one in best])
    return ids_NTC, torch.stack([one.values.cpu() for one in best])
