"""Carries a plan out: one forward pass over the new tokens of many sequences.

    runner = Runner(model, PagedKV(model.body.attention_shapes(), num_blocks=100, block_size=16))
    runner.move(plan.moves)            # before the blocks are used
    logits_RV = runner.run(plan)       # a row for each `num_logits` of each part, in order
    vectors_ED = runner.embed(plan)    # a row for each part of an `embed` request, in order

The model is the very module that trains and generates elsewhere. It sees a batch of one row, the
tokens of all parts one after another with their positions; `PagedCache` keeps the sequences apart.

Shapes: N tokens of a pass, R rows of logits, V vocabulary, E embed requests, T tokens of one,
D hidden width.
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
from pharos.serve.engine.batch import Batch
from pharos.serve.engine.decode_graphs import DecodeGraphs
from pharos.serve.engine.followers import Followers
from pharos.serve.engine.paged_cache import PagedCache
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.plan import Move, Plan

Pooling = Literal["last", "mean"]


class Runner:
    """`pooling` says what is the vector of a text: the hidden state of its last token, which alone
    has seen all, or the mean of all of them. `adapters` are those of the model, if requests name
    any; `followers` are the processes that have the other parts of a split one. `graphs` compute
    the steps that they take. Raises ValueError for a model whose positions depend on how much is
    read at once."""

    def __init__(
        self,
        model: CausalLM,
        kv: PagedKV,
        *,
        pooling: Pooling = "last",
        adapters: AdapterRegistry | None = None,
        followers: Followers | None = None,
        graphs: DecodeGraphs | None = None,
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
        self.followers = followers
        self.graphs = graphs
        self.device = model.body.embedding.weight.device

    def move(self, moves: list[Move]) -> None:
        """Copies whole blocks between the device and the host, and returns when that is done."""
        self._with_followers(Batch("generate", [], moves))

    def run(self, plan: Plan) -> Tensor:
        """Logits `[R, V]` in the model's type, in the order of the plan's parts, after the last
        `num_logits` tokens of each. Parts of `embed` requests are left to `embed`."""
        return self._with_followers(Batch.of(plan, "generate"))

    def embed(self, plan: Plan) -> Tensor:
        """Unit vectors `[E, D]` in float32, in the order of the plan's `embed` parts. Each is read
        whole, and nothing of it is kept."""
        return self._with_followers(Batch.of(plan, "embed"))

    @torch.inference_mode()
    def compute(self, batch: Batch) -> Tensor:
        """What `move`, `run` and `embed` do, here alone."""
        self.kv.move(batch.moves)
        width = self.model.config.vocab_size
        if batch.kind == "embed":
            width = self.model.config.hidden_size
        if not batch.rows:
            return torch.empty(0, width, device=self.device)
        return self._logits(batch) if batch.kind == "generate" else self._vectors(batch)

    def _with_followers(self, batch: Batch) -> Tensor:
        if self.followers is None or not (batch.rows or batch.moves):
            return self.compute(batch)
        with self.followers.computing(batch):
            return self.compute(batch)

    def _logits(self, batch: Batch) -> Tensor:
        if self.graphs is not None and self.graphs.take(batch):
            return self.model.logits(self.graphs.run(batch))
        segments = [Segment(row.blocks, row.start, len(row.ids)) for row in batch.rows]
        with self._through_adapters(batch, [len(row.ids) for row in batch.rows]):
            x_1ND: Tensor = self.model.body(
                self._tensor([batch.ids]),
                positions_BT=self._tensor([batch.positions]),
                cache=PagedCache(self.kv, segments),
            )
        wanted = batch.wanted
        if not wanted:
            return x_1ND.new_empty(0, self.model.config.vocab_size)
        x_RD = x_1ND[0, self._tensor(wanted)]
        with self._through_adapters(batch, [row.num_logits for row in batch.rows]):
            return self.model.logits(x_RD)

    def _vectors(self, batch: Batch) -> Tensor:
        lengths = [len(row.ids) for row in batch.rows]
        numbers = [i for i, length in enumerate(lengths) for _ in range(length)]
        with self._through_adapters(batch, lengths):
            x_1ND = self.model.body(
                self._tensor([batch.ids]),
                positions_BT=self._tensor([batch.positions]),
                mask=Causal() & Documents(self._tensor([numbers])),
            )
        texts = x_1ND[0].float().split(lengths)
        pooled = [x_TD[-1] if self.pooling == "last" else x_TD.mean(dim=0) for x_TD in texts]
        return normalize(torch.stack(pooled), dim=-1)

    def _through_adapters(
        self, batch: Batch, num_tokens: Sequence[int]
    ) -> AbstractContextManager[None]:
        """Within it, so many tokens of each row go through the adapter of its sequence."""
        if self.adapters is None:
            return nullcontext()
        generations = [row.adapter for row in batch.rows]
        return self.adapters.route(list(zip(generations, num_tokens, strict=True)))

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
