"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral whose feed-forward networks are mixtures
of experts. Each token meets two of eight in every layer.

    router_logits: list[Tensor] = []
    logits = model(ids, router_logits=router_logits)
    loss = cross_entropy(logits, ...) + coefficient * load_balancing_loss(router_logits, top_k=2)

Shapes: B sequences, T tokens, D hidden width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pharos.models.config import check_size
from pharos.models.family import AttentionShape, Body, Family
from pharos.models.heads import CausalLM, LastTokenClassifier, Reward
from pharos.models.kv_cache import Cache, next_positions
from pharos.models.llama import (
    LAYER,
    LlamaAttention,
    LlamaConfig,
    LlamaTokenClassifier,
    attention_shapes,
)
from pharos.models.weight_map import One, Source, under
from pharos.ops.experts import MixtureOfExperts
from pharos.ops.masks import Causal, Mask
from pharos.ops.norms import RMSNorm
from pharos.ops.positions import Rotation


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtralConfig(LlamaConfig):
    """`router_aux_loss_coef` is what the load balancing loss is weighted with in training."""

    FIXED: ClassVar[Mapping[str, Any]] = {"router_jitter_noise": 0.0}

    model_type: str = "mixtral"
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    router_aux_loss_coef: float = 0.001

    def __post_init__(self) -> None:
        super(MixtralConfig, self).__post_init__()
        check_size(num_local_experts=self.num_local_experts)
        check_size(most=self.num_local_experts, num_experts_per_tok=self.num_experts_per_tok)


class MixtralBlock(nn.Module):
    def __init__(self, config: MixtralConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = LlamaAttention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MixtureOfExperts(
            config.hidden_size,
            config.intermediate_size,
            num_experts=config.num_local_experts,
            top_k=config.num_experts_per_tok,
            activation=config.hidden_act,
        )

    def forward(
        self,
        x_BTD: Tensor,
        rotate: Rotation,
        mask: Mask,
        cache: Cache | None,
        router_logits: list[Tensor] | None,
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotate, mask, cache)
        y_BTD: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD), router_logits)
        return y_BTD


class Mixtral(Body):
    """From token ids to the last hidden states."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.blocks = nn.ModuleList(MixtralBlock(config, i) for i in layers)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
        router_logits: list[Tensor] | None = None,
    ) -> Tensor:
        """`[B, T, D]`. Positions continue those of the cache unless given; the mask is causal. Each
        layer appends its router's scores `[B·T, E]` to `router_logits`."""
        positions_BT = next_positions(ids_BT, cache) if positions_BT is None else positions_BT
        x_BTD: Tensor = self.embedding(ids_BT)
        rotate = self.config.rope.rotation(positions_BT, dtype=x_BTD.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotate, mask or Causal(), cache, router_logits)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        y_BTD: Tensor = self.norm(x_BTD)
        return y_BTD

    def attention_shapes(self) -> list[AttentionShape]:
        return attention_shapes(self.config)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = under(
            prefix, {"embedding.weight": "embed_tokens.weight", "norm.weight": "norm.weight"}
        )
        for i, block in enumerate(self.blocks):
            for ours, _ in block.named_parameters():
                names[f"blocks.{i}.{ours}"] = One(f"{prefix}layers.{i}.{_checkpoint_name(ours)}")
        return names


def _checkpoint_name(ours: str) -> str:
    """Of a block's parameter."""
    part, _, kind = ours.rpartition(".")
    if part == "mlp.router":
        return f"block_sparse_moe.gate.{kind}"
    if part.startswith("mlp.experts."):
        _, _, number, linear = part.split(".")
        return f"block_sparse_moe.experts.{number}.{EXPERT[linear]}.{kind}"
    return f"{LAYER[part]}.{kind}"


EXPERT = {"gate": "w1", "down": "w2", "up": "w3"}


class MixtralLM(CausalLM):
    """A language model whose routers can be watched."""

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
        router_logits: list[Tensor] | None = None,
    ) -> Tensor:
        """Logits `[B, T, V]`; see the body's `forward` for the arguments."""
        x_BTD = self.body(
            ids_BT, positions_BT=positions_BT, mask=mask, cache=cache, router_logits=router_logits
        )
        return self.logits(x_BTD)


FAMILY = Family(
    model_types={"mixtral": "Mixtral"},
    config=MixtralConfig,
    body=Mixtral,
    prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
    tasks={
        "causal_lm": MixtralLM,
        "sequence_classification": LastTokenClassifier,
        "token_classification": LlamaTokenClassifier,
        "reward": Reward,
    },
)
