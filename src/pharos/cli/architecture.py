"""How the description of a model looks: a table of its parts, and what they cost."""

from collections import Counter
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from pharos.cli.terminal import one_line, results
from pharos.models.describe import BYTES, PRECISIONS, ModelDescription
from pharos.models.family import AttentionShape


def architecture_json(description: ModelDescription, context: int) -> dict[str, Any]:
    return {
        "task": description.task,
        "parts": [
            {
                "name": part.name,
                "shape": list(part.shape),
                "count": part.count,
                "parameters": part.num_parameters,
            }
            for part in description.parts
        ],
        "attention": [
            {**shape._asdict(), "times": times}
            for shape, times in Counter(description.attention).items()
        ],
        "parameters": description.num_parameters,
        "non_embedding_parameters": description.num_non_embedding_parameters,
        "active_parameters": description.num_active_parameters,
        "weight_bytes": {name: description.weight_bytes(name) for name in PRECISIONS},
        "kv_bytes_per_token": {name: description.kv_bytes_per_token(name) for name in BYTES},
        "context": context,
        "flops_per_token": description.flops_per_token(context),
        "linear_flops_per_token": description.linear_flops_per_token(),
        "attention_flops_per_token": description.attention_flops_per_token(context),
    }


def print_architecture(description: ModelDescription, context: int) -> None:
    console = results()
    console.print(_table(description))
    for name, value in _costs(description, context).items():
        console.print(Text(f"  {name}: ", style="dim") + Text(value), soft_wrap=True)


def _table(description: ModelDescription) -> Table:
    """A row for each part; `*` in its name is the number of a layer (or an expert)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part", overflow="fold")
    for name in ("shape", "times", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in description.parts:
        shape = " × ".join(str(size) for size in part.shape)
        times = "" if part.count == 1 else f"{part.count:,}"
        table.add_row(one_line(part.name), shape, times, f"{part.num_parameters:,}")
    return table


def _costs(description: ModelDescription, context: int) -> dict[str, str]:
    total, active = description.num_parameters, description.num_active_parameters
    rest = f"{description.num_non_embedding_parameters:,} without embeddings"
    looks = Counter(description.attention).items()
    costs = {"attention": "; ".join(_attention(shape, times) for shape, times in looks)}
    costs["parameters"] = f"{total:,} ({rest})"
    if active != total:
        costs["of which a token meets"] = f"{active:,}"
    weights = (f"{size(description.weight_bytes(name))} in {name}" for name in PRECISIONS)
    costs["weights"] = ", ".join(weights)
    if description.kv_bytes_per_token("bf16"):
        kept = (f"{size(description.kv_bytes_per_token(name))} in {name}" for name in BYTES)
        costs["KV cache, for each token"] = ", ".join(kept)
    linear = _scaled(description.linear_flops_per_token(), "FLOP")
    attention = _scaled(description.attention_flops_per_token(context), "FLOP")
    flops = _scaled(description.flops_per_token(context), "FLOP")
    shares = f"{linear} in linears, {attention} in attention over {context:,} tokens"
    costs["a forward pass, for each token"] = f"{flops} ({shares})"
    return costs


def _attention(shape: AttentionShape, times: int) -> str:
    said = f"{times} times {shape.num_heads} heads of {shape.head_dim}"
    if shape.num_kv_heads != shape.num_heads:
        said += f", {shape.num_kv_heads} of keys and values"
    return said if shape.reach is None else f"{said}, over {shape.reach:,} tokens at most"


def size(num_bytes: int) -> str:
    """In units of 1000, as disks and memory bandwidth are."""
    return _scaled(num_bytes, "B")


def _scaled(number: int, unit: str) -> str:
    value, prefixes = float(number), ("", "k", "M", "G", "T", "P")
    for prefix in prefixes:
        if value < 999.5 or prefix == prefixes[-1]:
            break
        value /= 1000
    return f"{value:.3g} {prefix}{unit}"
