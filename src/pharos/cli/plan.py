"""`pharos plan`: what a run, or a service, will take, before it is paid for."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pharos.cli.options import JsonOption

if TYPE_CHECKING:
    from pharos.train.planner import ModelShape, ScalingLaw

plan = typer.Typer(
    name="plan",
    help="Plan a training run, or a service: size, memory, devices, time, cost.",
    epilog="Example: pharos plan train --compute 1e21",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def quantity(text: str) -> float:
    """`7B`, `1.4T`, `5.76e23`, `$2M`, `300,000` as a number."""
    bare = str(text).strip().removeprefix("$").replace(",", "").replace("_", "")
    match = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)\s*([a-z]?)", bare.lower())
    if match is None or match[2] not in SCALES:
        raise typer.BadParameter(f"{text!r} is no quantity; write 7e9, 7B, 1.4T or 300,000")
    return float(match[1]) * SCALES[match[2]]


SHAPE_NAMES = (
    "gpt2, gpt3-175b, llama-65b, llama-2-7b, llama-2-13b, llama-2-70b, llama-3-8b, llama-3-70b, "
    "mistral-7b, mixtral-8x7b"
)
MODEL_HELP = f"A folder, a config.json, a hub id, or one of {SHAPE_NAMES}."
GPU_NAMES = "v100, a100-40, a100-80, h100, h200, b200, mi300x, l4, l40s, rtx-3090, rtx-4090, tpu-v4"
GpuOption = Annotated[str, typer.Option("--gpu", metavar="NAME", help=f"One of {GPU_NAMES}.")]
PriceOption = Annotated[
    float | None,
    typer.Option("--price", metavar="DOLLARS", help="A GPU's hour; else a rough usual price."),
]


@plan.command()
def train(
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)] = None,
    compute: Annotated[
        float | None,
        typer.Option(
            "--compute",
            metavar="FLOP",
            parser=quantity,
            help="Floating-point operations of the run.",
        ),
    ] = None,
    params: Annotated[
        float | None,
        typer.Option("--params", metavar="N", parser=quantity, help="Of the model, as in 7B."),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option("--tokens", metavar="D", parser=quantity, help="Of the run, as in 1.4T."),
    ] = None,
    money: Annotated[
        float | None,
        typer.Option("--money", metavar="DOLLARS", parser=quantity, help="What the GPUs may cost."),
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", metavar="DAYS", help="How long it may take.")
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", metavar="N", help="How many GPUs.")] = None,
    gpu: GpuOption = "h100",
    mfu: Annotated[
        float,
        typer.Option(
            "--mfu", metavar="SHARE", help="The share of the peak FLOP/s that is reached."
        ),
    ] = 0.4,
    price: PriceOption = None,
    law: Annotated[
        str,
        typer.Option(
            "--law", metavar="LAW", help="refit, hoffmann, or a file of `plan fit --out`."
        ),
    ] = "refit",
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", metavar="TOKENS", help="Else the model's most, or 2048."),
    ] = None,
    batch_tokens: Annotated[
        float | None,
        typer.Option("--batch-tokens", metavar="N", parser=quantity, help="About what a step has."),
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "muon"],
        typer.Option("--optimizer", help="Whose state is kept."),
    ] = "adamw",
    checkpointing: Annotated[
        Literal["none", "selective", "full"] | None,
        typer.Option("--checkpointing", help="Of activations; else selective, or full to fit."),
    ] = None,
    states: Annotated[
        Literal["fp32", "bf16"],
        typer.Option("--states", help="Weights and gradients; bf16 has a copy in fp32."),
    ] = "fp32",
    node_size: Annotated[
        int, typer.Option("--node-size", metavar="N", help="GPUs that share a fast link.")
    ] = 8,
    as_json: JsonOption = False,
) -> None:
    """From what is known of a training run, the rest.

    Give its size in one way: --compute, --money, --gpus with --days, or --params with --tokens;
    what is left open, the scaling law decides. Or --params, --tokens or --model alone.

    \b
    Examples:
      pharos plan train --compute 5.76e23
      pharos plan train --params 7B --gpus 64
      pharos plan train --model llama-2-7b --tokens 2T --gpu a100-80 --mfu 0.45
      pharos plan train --money 50k --days 14
    """
    from pharos.cli import terminal, training_tables
    from pharos.train.planner import Assumptions, Given, device_named, plan_training

    given = Given(compute=compute, params=params, tokens=tokens, money=money, days=days, gpus=gpus)
    assumptions = Assumptions(
        device=device_named(gpu),
        mfu=mfu,
        price=price,
        law=scaling_law(law),
        sequence_length=sequence_length,
        batch_tokens=batch_tokens,
        optimizer=optimizer,
        states=states,
        checkpointing=checkpointing,
        node_size=node_size,
    )
    made = plan_training(given, assumptions, None if model is None else shape_of(model))
    if as_json:
        terminal.print_json(training_tables.training_json(made))
    else:
        training_tables.print_training(made)


@plan.command()
def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", show_default=False, help=MODEL_HELP)
    ] = None,
    params: Annotated[
        float | None,
        typer.Option(
            "--params", metavar="N", parser=quantity, help="Parameters, instead of a model."
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", metavar="N", help="With --params.")
    ] = None,
    kv_heads: Annotated[
        int | None, typer.Option("--kv-heads", metavar="N", help="With --params.")
    ] = None,
    head_dim: Annotated[int, typer.Option("--head-dim", metavar="N", help="With --params.")] = 128,
    gpu: GpuOption = "h100",
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", metavar="N", help="Of a replica; else the fewest that hold the model."
        ),
    ] = None,
    weights: Annotated[
        Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"],
        typer.Option("--weights", help="Their precision."),
    ] = "bf16",
    cache: Annotated[
        Literal["fp32", "bf16", "fp16", "fp8", "int8"],
        typer.Option("--cache", help="Precision of keys and values."),
    ] = "bf16",
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", metavar="N", help="Of a request.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option("--output-tokens", metavar="N", help="Of its answer.")
    ] = 256,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", metavar="N", help="Sequences at a time; else all that fit, to 256."
        ),
    ] = None,
    requests: Annotated[
        float | None,
        typer.Option("--requests", metavar="N", help="A second; how many replicas do they take?"),
    ] = None,
    price: PriceOption = None,
    mfu: Annotated[
        float,
        typer.Option(
            "--mfu", metavar="SHARE", help="The share of the peak FLOP/s that is reached."
        ),
    ] = 0.5,
    bandwidth: Annotated[
        float,
        typer.Option("--bandwidth", metavar="SHARE", help="The same of the peak bandwidth."),
    ] = 0.7,
    as_json: JsonOption = False,
) -> None:
    """What a model takes to serve: cache, GPUs, tokens and requests a second, cost.

    \b
    Examples:
      pharos plan serve llama-3-70b
      pharos plan serve mixtral-8x7b --gpu a100-80 --weights int8 --cache fp8
      pharos plan serve path/to/model --requests 50 --prompt-tokens 2000 --output-tokens 300
      pharos plan serve --params 13B --layers 40 --kv-heads 40
    """
    from pharos.cli import serving_tables, terminal
    from pharos.train.planner import Load, ServingSetup, device_named, plan_serving, plans_by_gpus

    load = Load(
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        batch=batch,
        requests_per_second=requests,
    )
    setup = ServingSetup(
        device=device_named(gpu),
        weights=weights,
        cache=cache,
        gpus=gpus,
        price=price,
        mfu=mfu,
        bandwidth_efficiency=bandwidth,
    )
    shape = served_shape(model, params, layers, kv_heads, head_dim)
    made = plan_serving(shape, load, setup)
    others = [] if gpus is not None else plans_by_gpus(shape, load, setup)
    if as_json:
        terminal.print_json(serving_tables.serving_json(made, others))
    else:
        serving_tables.print_serving(made, others)


@plan.command()
def fit(
    runs: Annotated[
        Path,
        typer.Argument(
            metavar="RUNS", show_default=False, help="CSV or JSONL: params, tokens, loss."
        ),
    ],
    compute: Annotated[
        float | None,
        typer.Option(
            "--compute", metavar="FLOP", parser=quantity, help="The best use of so many operations."
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", metavar="N", min=0, help="Fits to runs drawn again.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the law here, for `plan train`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to finished runs, with 95% intervals.

    \b
    Examples:
      pharos plan fit runs.csv --compute 1e21
      pharos plan fit runs.jsonl --out law.json && pharos plan train --law law.json --compute 1e21
    """
    from pharos.cli import terminal, training_tables
    from pharos.train.planner.fit import fit_law, read_runs

    fitted = fit_law(read_runs(runs), num_resamples=resamples, seed=seed)
    if out is not None:
        from pharos.core.json_files import write_object

        write_object(out, training_tables.law_json(fitted.law))
    if as_json:
        terminal.print_json(training_tables.fit_json(fitted, compute))
    else:
        training_tables.print_fit(fitted, compute)


def scaling_law(name: str) -> "ScalingLaw":
    """A law by name, or from the file that `plan fit --out` wrote."""
    from pharos.train.planner import law_named
    from pharos.train.planner.fit import read_law

    return read_law(Path(name)) if Path(name).is_file() else law_named(name)


def shape_of(name: str) -> "ModelShape":
    """Of a shape known by name, or of a model's config, which needs torch to be described."""
    from pharos.core import ModelError
    from pharos.core.json_files import read_object
    from pharos.models.resolve import find_model
    from pharos.train.planner import known_shape

    known = known_shape(name)
    if known is not None:
        return known
    try:
        path = Path(name) if Path(name).is_file() else find_model(name).path / "config.json"
    except ModelError as error:
        raise ModelError(f"{error}; or a shape that is known: {SHAPE_NAMES}") from None
    from pharos.train.planner.configured import configured_shape

    return configured_shape(path.resolve().parent.name, read_object(path))


def served_shape(
    model: str | None,
    params: float | None,
    layers: int | None,
    kv_heads: int | None,
    head_dim: int,
) -> "ModelShape":
    """Of a model, or of the numbers that stand for one."""
    from pharos.train.planner.shapes import numbered_shape

    if model is not None:
        given = {"--params": params, "--layers": layers, "--kv-heads": kv_heads}
        for option, value in given.items():
            if value is not None:
                raise typer.BadParameter(f"the model {model} says it already", param_hint=option)
        return shape_of(model)
    if params is None or layers is None or kv_heads is None:
        raise typer.BadParameter("name a model, or give --params, --layers and --kv-heads")
    return numbered_shape(params, layers=layers, kv_heads=kv_heads, head_dim=head_dim)
