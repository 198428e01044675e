"""A model with an adapter in its weights, as a folder: what `pharos merge` writes, and a recipe
that asks for it."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pharos.adapt.adapters import Adapters
from pharos.adapt.base_model import check_head, load_base
from pharos.adapt.layers import SavedCopy
from pharos.adapt.peft_files import load_adapter, most_token_id, needs_quantized_base
from pharos.adapt.vocabulary import grow_vocabulary, untie_embeddings
from pharos.adapt.weights_file import read_trained_on
from pharos.core.errors import ModelError
from pharos.models.family import Model
from pharos.models.load import family_of, save_model, task_of
from pharos.models.resolve import find_model
from pharos.quant import convert_nf4, dequantize

BESIDE_WEIGHTS = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""The files of a model's folder that an adapter's may have too: the adapter's are newer."""
PROBE = 16
ROUNDING = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}
"""How far, of its length, the output of a merged model may be from that of the unmerged one: all
that its layers round adds up."""


def write_merged(
    name: str | Path,
    adapter: Path,
    out: Path,
    *,
    in_nf4: bool | None = None,
    untie: bool = False,
) -> dict[str, Any]:
    """Merge the adapter in a folder into the model of that name, write it to `out`, and say what
    was done. `in_nf4` merges into the base as NF4 holds it (default: if the adapter says so);
    `untie` gives a head that is the embedding a weight of its own (also if the adapter says so)."""
    model, fresh = load_base(name, adapter)
    if untie or read_trained_on(adapter).has_own_head:
        untie_embeddings(model)
    in_nf4 = needs_quantized_base(adapter) if in_nf4 is None else in_nf4
    facts = _merge_into(model, fresh, adapter, in_nf4=in_nf4)
    save_model(model, out)
    return {**facts, "copied": _copy_beside(find_model(str(name)).path, adapter, out)}


def _merge_into(
    model: Model, fresh: Collection[str], adapter: Path, *, in_nf4: bool
) -> dict[str, Any]:
    """What was done, for the report. `fresh` are the parameters that the adapter must bring."""
    dtype = model.dtype
    new_tokens = max(most_token_id(adapter) + 1 - model.config.vocab_size, 0)
    if new_tokens:
        grow_vocabulary(model, new_tokens)
    if in_nf4:
        convert_nf4(model)
    adapters = Adapters(model)
    load_adapter(adapters, adapter)
    check_head(adapters, fresh, adapter)
    _convert_copies(adapters, dtype)
    places = len(adapters.parts())
    unmerged = _probe(model)
    adapters.merge_and_unload()
    if in_nf4:
        dequantize(model)
    merged = _probe(model)
    check_agreement(merged, unmerged, model.dtype)
    return {
        "task": task_of(model, family_of(model.config.model_type)),
        "merged_places": places,
        "new_tokens": new_tokens,
        "base": "nf4" if in_nf4 else "as it is",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "largest_logit_difference": (merged - unmerged).abs().max().item(),
    }


def check_agreement(merged: Tensor, unmerged: Tensor, dtype: torch.dtype) -> None:
    """Raises ModelError where two outputs differ by more than rounding to a type explains."""
    most = ROUNDING.get(dtype, ROUNDING[torch.float32])
    difference, size = (merged - unmerged).norm().item(), unmerged.norm().item()
    if not difference <= most * size:
        raise ModelError(
            f"merged, the model gives an output that is {difference / max(size, 1e-30):.2%} away "
            f"from what it gives with the adapter beside it; rounding to {dtype} explains "
            f"{most:.1%}. Nothing is written: load model and adapter side by side, or merge into a "
            "copy of the model in float32"
        )


def _convert_copies(adapters: Adapters, dtype: torch.dtype) -> None:
    """Modules that the adapter holds whole are of the model's type, as all around them."""
    for part in adapters.parts():
        if isinstance(part, SavedCopy):
            part.to(dtype)


def _probe(model: Model) -> Tensor:
    """What the model says of a few tokens: merged and unmerged must agree."""
    count = min(PROBE, model.config.vocab_size)
    ids = torch.arange(count)[None]
    with torch.inference_mode():
        inputs = (ids, ids) if hasattr(model, "decode") else (ids,)
        output: Tensor = model(*inputs)
        return (
            output.float() if isinstance(output, torch.Tensor) else torch.stack([*output]).float()
        )


def _copy_beside(model: Path, adapter: Path, out: Path) -> list[str]:
    copied = []
    for name in BESIDE_WEIGHTS:
        found = next((path for path in (adapter / name, model / name) if path.is_file()), None)
        if found is not None:
            shutil.copyfile(found, out / name)
            copied.append(name)
    return copied
