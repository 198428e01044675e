"""RoPE in a `config.json`: `rope_theta` and `rope_scaling`, or all of it in `rope_parameters`."""

from collections.abc import Mapping
from typing import Any

from pharos.core.errors import ModelError
from pharos.ops.positions import Rope, RopeScaling

DEFAULT_THETA = 10_000.0
KINDS = ("linear", "dynamic", "yarn", "llama3")
OPTIONAL = (
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
)


def read_rope(raw: Mapping[str, Any], head_dim: int, *, theta: float = DEFAULT_THETA) -> Rope:
    """The rotation of heads `head_dim` wide. Raises ModelError for a kind that is not built."""
    settings = dict(raw.get("rope_scaling") or {}) | dict(raw.get("rope_parameters") or {})
    kind = settings.get("rope_type", settings.get("type", "default"))
    theta = float(settings.get("rope_theta") or raw.get("rope_theta") or theta)
    share = settings.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    width = int(head_dim * share)
    if width > head_dim:
        raise ModelError(f"config.json: partial_rotary_factor is {share}; it must be at most 1")
    if kind == "default":
        return Rope(width=width, theta=theta)
    if kind not in KINDS:
        raise ModelError(f"config.json: rope_type is {kind!r}; known are {', '.join(KINDS)}")
    if "factor" not in settings:
        raise ModelError(f"config.json: RoPE scaling of type {kind} lacks its factor")
    scaling = RopeScaling(
        kind=kind,
        factor=float(settings["factor"]),
        original_max_positions=_trained_length(raw, settings, kind),
        **{name: settings[name] for name in OPTIONAL if settings.get(name) is not None},
    )
    return Rope(width=width, theta=theta, scaling=scaling)


def write_rope(rope: Rope, head_dim: int) -> dict[str, Any]:
    """The settings as `rope_parameters`, and as `rope_theta` and `rope_scaling` for old readers."""
    shared: dict[str, Any] = {"rope_type": "default"}
    if rope.width != head_dim:
        shared["partial_rotary_factor"] = rope.width / head_dim
    scaling = rope.scaling
    if scaling is not None:
        used = {"yarn": OPTIONAL[:6], "llama3": OPTIONAL[6:]}.get(scaling.kind, ())
        shared |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if used:
            shared["original_max_position_embeddings"] = scaling.original_max_positions
        given = {name: getattr(scaling, name) for name in used}
        shared |= {name: value for name, value in given.items() if value is not None}
    return {
        "rope_theta": rope.theta,
        "rope_scaling": None if scaling is None else shared,
        "rope_parameters": {**shared, "rope_theta": rope.theta},
    }


def _trained_length(raw: Mapping[str, Any], settings: Mapping[str, Any], kind: str) -> int:
    """How long the sequences were that the model was trained on before it was stretched. `dynamic`
    is stretched from the length that the config promises."""
    promised = raw.get("max_position_embeddings")
    length = settings.get("original_max_position_embeddings") or promised
    if kind == "dynamic":
        length = promised or length
    if not isinstance(length, int) or length < 1:
        raise ModelError(f"config.json: RoPE of type {kind} needs original_max_position_embeddings")
    return length
