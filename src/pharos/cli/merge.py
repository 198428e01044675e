"""`pharos merge`: an adapter into the weights of its model."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import JsonOption

if TYPE_CHECKING:
    from torch import Tensor

    from pharos.models.family import Model

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


def merge(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", show_default=False, help="A short name, a folder, or a hub id."
        ),
    ],
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", show_default=False, help="The adapter's folder, in PEFT's format."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", show_default=False, help="The folder to write.")
    ],
    nf4: Annotated[
        bool | None,
        typer.Option(
            "--nf4/--no-nf4",
            show_default=False,
            help="Merge into the base as NF4 holds it, in bfloat16; else as the adapter says.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its model: a folder that any library loads, without adapters.

    An adapter that was trained on a model in NF4 belongs to what NF4 made of it: that is what it is
    merged into. Tokens that the adapter has added are added to the model.

    \b
    Examples:
      pharos merge path/to/model path/to/adapter merged
      pharos merge path/to/model qlora-by-peft merged --nf4
    """
    from pharos.adapt.peft_files import needs_quantized_base
    from pharos.cli.rendering import print_fields
    from pharos.cli.terminal import print_json
    from pharos.models.load import load_model, save_model
    from pharos.models.resolve import find_model

    folder = find_model(name).path
    _check_out(out)
    in_nf4 = needs_quantized_base(adapter) if nf4 is None else nf4
    model = load_model(folder)
    facts = _merge_into(model, adapter, in_nf4=in_nf4)
    save_model(model, out)
    copied = _copy_beside(folder, adapter, out)
    facts = {"folder": str(out), **facts, "copied": copied}
    if as_json:
        print_json(facts)
    else:
        print_fields(out.name, facts)


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} is there already; name a folder that is new, or empty")


def _merge_into(model: "Model", adapter: Path, *, in_nf4: bool) -> dict[str, Any]:
    """What was done, for the report."""
    from pharos.adapt import Adapters, grow_vocabulary, load_adapter
    from pharos.adapt.peft_files import most_token_id
    from pharos.quant import convert_nf4, dequantize

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


def _probe(model: "Model") -> "Tensor":
    """What the model says of a few tokens: merged and unmerged must agree."""
    import torch

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
