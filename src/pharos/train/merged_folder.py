"""A model with an adapter in its weights, as a folder: what `pharos merge` writes, and a recipe
that asks for it."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pharos.adapt.adapters import Adapters
from pharos.adapt.peft_files import load_adapter, most_token_id, needs_quantized_base
from pharos.adapt.vocabulary import grow_vocabulary
from pharos.models.family import Model
from pharos.models.load import load_model, save_model
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


def write_merged(
    name: str | Path, adapter: Path, out: Path, *, in_nf4: bool | None = None
) -> dict[str, Any]:
    """Merge the adapter in a folder into the model of that name, write it to `out`, and say what
    was done. `in_nf4` merges into the base as NF4 holds it (default: if the adapter says so)."""
    folder = find_model(str(name)).path
    model = load_model(folder)
    in_nf4 = needs_quantized_base(adapter) if in_nf4 is None else in_nf4
    facts = _merge_into(model, adapter, in_nf4=in_nf4)
    save_model(model, out)
    return {**facts, "copied": _copy_beside(folder, adapter, out)}


def _merge_into(model: Model, adapter: Path, *, in_nf4: bool) -> dict[str, Any]:
    """What was done, for the report."""
    new_tokens = max(most_token_id(adapter) + 1 - model.config.vocab_size, 0)
    if new_tokens:
        grow_vocabulary(model, new_tokens)
    if in_nf4:
        convert_nf4(model)
    adapters = Adapters(model)
    load_adapter(adapters, adapter)
    places = len(adapters.parts())
    unmerged = _probe(model)
    adapters.merge_and_unload()
    if in_nf4:
        dequantize(model)
    difference = (_probe(model) - unmerged).abs().max().item()
    return {
        "merged_places": places,
        "new_tokens": new_tokens,
        "base": "nf4" if in_nf4 else "as it is",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "largest_logit_difference": difference,
    }


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
