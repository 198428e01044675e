"""The sizes of the network that a `config.json` asks for; no weight is read."""

from collections.abc import Mapping
from typing import Any

from pharos.models.describe import describe_config
from pharos.models.load import family_of
from pharos.train.planner.shapes import ModelShape


def configured_shape(name: str, raw: Mapping[str, Any]) -> ModelShape:
    """Layers that look back differently far are taken as if they all saw everything: a plan errs on
    the safe side. An encoder-decoder's layers are all places where a token looks at others. Raises
    ModelError for a config that is refused or of an unknown kind."""
    config = family_of(raw.get("model_type")).config.from_hugging_face(raw)
    description = describe_config(raw)
    attention = description.attention
    is_gated = any(part.name.endswith("gate.weight") for part in description.parts)
    inner = (4 if is_gated else 2) * getattr(config, "intermediate_size", 4 * config.hidden_size)
    experts_per_token = getattr(config, "num_experts_per_tok", 1)
    first, reaches = attention[0], {shape.reach for shape in attention}
    return ModelShape(
        name=name,
        num_parameters=description.num_parameters,
        num_active_parameters=description.num_active_parameters,
        num_embedding_parameters=description.num_embedding_parameters,
        num_layers=len(attention),
        hidden_size=config.hidden_size,
        num_heads=first.num_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.head_dim,
        vocab_size=config.vocab_size,
        mlp_kept=inner * experts_per_token,
        context=description.max_positions,
        window=reaches.pop() if len(reaches) == 1 else None,
        num_experts=getattr(config, "num_local_experts", 1),
        experts_per_token=experts_per_token,
        is_decoder=all(shape.is_cached for shape in attention),
    )
