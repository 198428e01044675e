"""The sizes of a model that a plan asks for: known by name, or assumed from a number of parameters.
(`configured.py` reads them from a `config.json`, which needs torch.)"""

import math
from dataclasses import dataclass

ASSUMED_VOCABULARY = 32_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """`num_active_parameters` are those that a token meets; fewer than all in a mixture of
    `num_experts`, of which it meets `experts_per_token`. `window` is how far each layer looks back,
    None where one of them sees everything. `mlp_kept` are the numbers that the feed-forward keeps
    of a token for the backward pass: 2 for each inner one, 4 where it is gated, for each expert
    that the token meets. `context` is the longest sequence it was made for. A
    decoder keeps keys and values of what it has written."""

    name: str
    num_parameters: int
    num_active_parameters: int
    num_embedding_parameters: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    mlp_kept: int
    context: int | None = None
    window: int | None = None
    num_experts: int = 1
    experts_per_token: int = 1
    is_decoder: bool = True

    @property
    def num_layer_parameters(self) -> float:
        """Of one layer, on average."""
        return (self.num_parameters - self.num_embedding_parameters) / self.num_layers

    def seen(self, context: int) -> int:
        return min(context, self.window or context)

    def kv_elements(self) -> int:
        """Keys and values that a token leaves in the cache, in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    def attention_flops(self, context: float) -> float:
        """Of a forward pass: scores and weighted sums of a token that sees `context` tokens."""
        return 4 * self.num_layers * self.num_heads * self.head_dim * context

    def training_flops_per_token(self, sequence_length: int) -> float:
        """`6 N + 12 L H Q T` (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), the convention
        of most published MFUs: every token counts as if it saw the whole sequence."""
        attention = 3 * self.attention_flops(self.seen(sequence_length))
        return 6 * self.num_active_parameters + attention


def _decoder(
    name: str,
    parameters: int,
    embedding: int,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    context: int,
    gated: int | None = None,
    head_dim: int = 128,
) -> ModelShape:
    """`gated` is the inner width of a gated feed-forward; without, it is GPT's, four times as wide
    as the model."""
    hidden_size = heads * head_dim
    return ModelShape(
        name=name,
        num_parameters=parameters,
        num_active_parameters=parameters,
        num_embedding_parameters=embedding,
        num_layers=layers,
        hidden_size=hidden_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        mlp_kept=8 * hidden_size if gated is None else 4 * gated,
        context=context,
    )


_LLAMA_2_7B = _decoder(
    "llama-2-7b", 6_738_415_616, 262_144_000,
    layers=32, heads=32, kv_heads=32, vocab=32_000, context=4096, gated=11_008,
)  # fmt: skip
_LLAMA_2_13B = _decoder(
    "llama-2-13b", 13_015_864_320, 327_680_000,
    layers=40, heads=40, kv_heads=40, vocab=32_000, context=4096, gated=13_824,
)  # fmt: skip
_LLAMA_2_70B = _decoder(
    "llama-2-70b", 68_976_648_192, 524_288_000,
    layers=80, heads=64, kv_heads=8, vocab=32_000, context=4096, gated=28_672,
)  # fmt: skip
_LLAMA_65B = _decoder(
    "llama-65b", 65_285_660_672, 524_288_000,
    layers=80, heads=64, kv_heads=64, vocab=32_000, context=2048, gated=22_016,
)  # fmt: skip
_LLAMA_3_8B = _decoder(
    "llama-3-8b", 8_030_261_248, 1_050_673_152,
    layers=32, heads=32, kv_heads=8, vocab=128_256, context=8192, gated=14_336,
)  # fmt: skip
_LLAMA_3_70B = _decoder(
    "llama-3-70b", 70_553_706_496, 2_101_346_304,
    layers=80, heads=64, kv_heads=8, vocab=128_256, context=8192, gated=28_672,
)  # fmt: skip
_GPT2 = _decoder(
    "gpt2", 124_439_808, 39_383_808,
    layers=12, heads=12, kv_heads=12, vocab=50_257, context=1024, head_dim=64,
)  # fmt: skip
_GPT3 = _decoder(
    "gpt3-175b", 174_604_259_328, 642_723_840,
    layers=96, heads=96, kv_heads=96, vocab=50_257, context=2048,
)  # fmt: skip
_MISTRAL_7B = ModelShape(
    name="mistral-7b",
    num_parameters=7_241_732_096,
    num_active_parameters=7_241_732_096,
    num_embedding_parameters=262_144_000,
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=32_000,
    mlp_kept=4 * 14_336,
    context=32_768,
    window=4096,
)
_MIXTRAL_8X7B = ModelShape(
    name="mixtral-8x7b",
    num_parameters=46_702_792_704,
    num_active_parameters=12_879_925_248,
    num_embedding_parameters=262_144_000,
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=32_000,
    mlp_kept=2 * 4 * 14_336,
    context=32_768,
    num_experts=8,
    experts_per_token=2,
)
SHAPES = (
    _GPT2,
    _GPT3,
    _LLAMA_65B,
    _LLAMA_2_7B,
    _LLAMA_2_13B,
    _LLAMA_2_70B,
    _LLAMA_3_8B,
    _LLAMA_3_70B,
    _MISTRAL_7B,
    _MIXTRAL_8X7B,
)


def known_shape(name: str) -> ModelShape | None:
    return next((shape for shape in SHAPES if shape.name == name.casefold()), None)


def assumed_shape(num_parameters: float) -> ModelShape:
    """A usual decoder of this size, with the proportions of GPT-3's: width by depth grows from 64
    to 128, `12 L h²` parameters beside its embeddings, attention without groups."""
    aspect = min(max(64 * (num_parameters / 125e6) ** 0.18, 64), 128)
    embedding = num_parameters / 3
    for _ in range(3):  # the width follows from what embeddings leave, and they from the width
        hidden = ((num_parameters - embedding) * aspect / 12) ** (1 / 3)
        embedding = min(2 * ASSUMED_VOCABULARY * hidden, num_parameters / 3)
    head_dim = 128 if hidden >= 2048 else 64
    heads = max(1, round(hidden / head_dim))
    heads = heads if heads < 8 else 4 * round(heads / 4) if heads < 32 else 8 * round(heads / 8)
    hidden_size = heads * head_dim
    layers = max(1, round((num_parameters - embedding) / (12 * hidden_size**2)))
    layers = layers if layers < 8 else 4 * round(layers / 4)
    return ModelShape(
        name=f"a decoder of {layers} layers of {hidden_size}",
        num_parameters=round(num_parameters),
        num_active_parameters=round(num_parameters),
        num_embedding_parameters=round(embedding),
        num_layers=layers,
        hidden_size=hidden_size,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        vocab_size=ASSUMED_VOCABULARY,
        mlp_kept=8 * hidden_size,
    )


def numbered_shape(
    num_parameters: float, *, layers: int, kv_heads: int, head_dim: int
) -> ModelShape:
    """A decoder of given numbers; as wide as `12 L h²` parameters make it."""
    for name, value in {"layers": layers, "kv_heads": kv_heads, "head_dim": head_dim}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not num_parameters > 0:
        raise ValueError(f"params is {num_parameters}; it must be above 0")
    heads = max(kv_heads, round(math.sqrt(num_parameters / (12 * layers)) / head_dim))
    hidden_size = heads * head_dim
    return ModelShape(
        name=f"{layers} layers, {kv_heads} heads of keys and values",
        num_parameters=round(num_parameters),
        num_active_parameters=round(num_parameters),
        num_embedding_parameters=0,
        num_layers=layers,
        hidden_size=hidden_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=ASSUMED_VOCABULARY,
        mlp_kept=8 * hidden_size,
    )
