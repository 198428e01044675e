"""Carries a plan out: one forward pass over the new tokens of many sequences.

    runner = Runner(model, PagedKV(model.body.attention_shapes(), num_blocks=100, block_size=16))
    logits_RV = runner.run(plan)       # a row for each `num_logits` of each part, in order
    vectors_ED = runner.embed(plan)    # a row for each part of an `embed` request, in order

The model is the very module that trains and generates elsewhere. It sees a batch of one row, the
tokens of all parts one after another with their positions; `PagedCache` keeps the sequences apart.

Shapes: N tokens of a pass, R rows of logits, V vocabulary, E embed requests, D hidden width.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pharos.models.heads import CausalLM
from pharos.ops.masks import Causal, Documents
from pharos.ops.paged_attention import Segment
from pharos.serve.engine.adapters import AdapterRegistry
from pharos.serve.engine.paged_cache import PagedCache
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.plan import Part, Plan

Pooling = Literal["last", "mean"]


class Runner:
    """`pooling` says what is the vector of a text: the hidden state of its last token, which alone
    has seen all, or the mean of all of them. `adapters` are those of the model, if requests name
    any. Raises ValueError for a model whose positions depend on how much is read at once."""

    def __init__(
        self,
        model: CausalLM,
        kv: PagedKV,
        *,
        pooling: Pooling = "last",
        adapters: AdapterRegistry | None = None,
    ) -> None:
        scaling = getattr(getattr(model.config, "rope", None), "scaling", None)
        if scaling is not None and scaling.kind == "dynamic":
            raise ValueError(
                "rope_scaling is dynamic: a token's rotation depends on the length of the text "
                "that is read with it, so no block of keys could be shared; serve the model with "
                "linear or yarn scaling, or use `pharos generate`"
            )
        self.model = model
        self.kv = kv
        self.pooling = pooling
        self.adapters = adapters
        self.device = model.body.embedding.weight.device

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor:
        """Move the plan's blocks, then compute its tokens: logits `[R, V]` in float32, in the order
        of the parts, after the last `num_logits` tokens of each. Parts of `embed` requests are left
        to `embed`."""
        self.kv.move(plan.moves)
        parts = [part for part in plan.parts if part.sequence.request.kind == "generate"]
        if not parts:
            return torch.empty(0, self.model.config.vocab_size, device=self.device)
        segments = [Segment(part.sequence.blocks, part.start, part.num_tokens) for part in parts]
        with self._through_adapters([part.num_tokens for part in parts], parts):
            x_1ND = self.model.body(
                self._ids(parts),
                positions_BT=self._positions(parts),
                cache=PagedCache(self.kv, segments),
            )
        rows_R = torch.tensor(_wanted_rows(parts), dtype=torch.long, device=self.device)
        with self._through_adapters([part.num_logits for part in parts], parts):
            return self.model.logits(x_1ND[0, rows_R]).float()

    @torch.inference_mode()
    def embed(self, plan: Plan) -> Tensor:
        """Unit vectors `[E, D]` in float32, in the order of the plan's `embed` parts. Each is read
        whole, and nothing of it is kept."""
        parts = [part for part in plan.parts if part.sequence.request.kind == "embed"]
        if not parts:
            return torch.empty(0, self.model.config.hidden_size, device=self.device)
        lengths = [part.num_tokens for part in parts]
        numbers_N = torch.arange(len(parts)).repeat_interleave(torch.tensor(lengths))
        mask = Causal() & Documents(numbers_N[None].to(self.device))
        with self._through_adapters(lengths, parts):
            x_1ND = self.model.body(
                self._ids(parts), positions_BT=self._positions(parts), mask=mask
            )
        texts = x_1ND[0].float().split(lengths)
        pooled = [x_TD[-1] if self.pooling == "last" else x_TD.mean(dim=0) for x_TD in texts]
        return normalize(torch.stack(pooled), dim=-1)

    def _through_adapters(
        self, num_rows: Sequence[int], parts: Sequence[Part]
    ) -> AbstractContextManager[None]:
        """Within it, so many rows for each part go through the adapter of its sequence."""
        if self.adapters is None:
            return nullcontext()
        generations = (part.sequence.generation for part in parts)
        return self.adapters.route(list(zip(generations, num_rows, strict=True)))

    def _ids(self, parts: Sequence[Part]) -> Tensor:
        ids = [id_ for part in parts for id_ in _tokens(part)]
        return torch.tensor([ids], dtype=torch.long, device=self.device)

    def _positions(self, parts: Sequence[Part]) -> Tensor:
        positions = [p for part in parts for p in range(part.start, part.start + part.num_tokens)]
        return torch.tensor([positions], dtype=torch.long, device=self.device)


def _tokens(part: Part) -> list[int]:
    """Those that the part computes: of the sequence's own, then of its drafts."""
    sequence, stop = part.sequence, part.start + part.num_tokens
    num_drafts = max(stop - len(sequence.tokens), 0)
    return sequence.tokens[part.start : stop] + sequence.drafts[:num_drafts]


def _wanted_rows(parts: Sequence[Part]) -> list[int]:
    """The last `num_logits` rows of each part."""
    rows: list[int] = []
    stop = 0
    for part in parts:
        stop += part.num_tokens
        rows += range(stop - part.num_logits, stop)
    return rows
