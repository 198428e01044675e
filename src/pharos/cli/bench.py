"""`pharos bench`: measure what serves a model."""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pharos.cli.options import JsonOption
from pharos.core import EndpointError

if TYPE_CHECKING:
    from pharos.serve.bench import Api, Load, LoadReport, Prompt

bench = typer.Typer(
    name="bench",
    help="Measure an endpoint that serves a model.",
    epilog="Example: pharos bench serve http://localhost:8000/v1 --sweep",
    no_args_is_help=True,
    rich_markup_mode=None,
)
USERS = 8


@bench.command()
def serve(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            show_default=False,
            help="Any OpenAI-compatible endpoint; add #NAME for one of its models.",
        ),
    ],
    api: Annotated[
        Literal["chat", "completions"], typer.Option("--api", help="What is asked for.")
    ] = "chat",
    workload: Annotated[
        Literal["random", "shared-prefix"],
        typer.Option("--workload", help="Prompts with nothing in common, or with beginnings."),
    ] = "random",
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="JSON lines with a prompt each, instead of made up."
        ),
    ] = None,
    words: Annotated[
        str, typer.Option("--words", metavar="N:M", help="The length of a made-up prompt.")
    ] = "100:400",
    prefix_words: Annotated[
        str, typer.Option("--prefix-words", metavar="N:M", help="The length of what is shared.")
    ] = "1000",
    num_prefixes: Annotated[
        int, typer.Option("--prefixes", metavar="N", min=1, help="How many are shared.")
    ] = 4,
    output: Annotated[
        str, typer.Option("--output", metavar="N:M", help="Tokens to be written.")
    ] = "64:128",
    natural_end: Annotated[
        bool, typer.Option("--natural-end", help="Let texts end before their length is reached.")
    ] = False,
    num_requests: Annotated[
        int, typer.Option("--requests", metavar="N", min=1, help="At each level of load.")
    ] = 100,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", metavar="N", min=1, help="So many users, one request at a time each."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="R", help="Requests a second, at random moments, instead."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Twice the load again and again, until it is too much.")
    ] = False,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", min=0, help="Requests that are not measured.")
    ] = 2,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", show_default=False, help="For the same prompts; else new ones."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a page with charts.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time to first token, time per token and throughput under load.

    At a rate of requests, the endpoint keeps up if those that come last take no longer than those
    before them; a sweep says up to where it does.

    Lengths are numbers, or spans as 100:400. Lengths of prompts are in words, about a token each;
    the tokens that are reported are those that the endpoint has counted.

    \b
    Examples:
      pharos bench serve http://localhost:8000/v1 --concurrency 16
      pharos bench serve http://localhost:8000/v1 --rate 2 --workload shared-prefix
      pharos bench serve http://localhost:8000/v1 --sweep --plot load.html --json
    """
    if concurrency is not None and rate is not None:
        raise typer.BadParameter("--concurrency and --rate are two kinds of load; choose one")
    from pharos.cli.bench_report import print_reports, write_page
    from pharos.cli.terminal import print_json
    from pharos.serve import ChatEndpoint
    from pharos.serve.bench import Load, saturation

    seed = secrets.randbits(32) if seed is None else seed
    users = None if rate is not None else concurrency or (1 if sweep else USERS)
    load = Load(num_requests=num_requests, concurrency=users, rate=rate, is_sweep=sweep, seed=seed)
    asked = _prompts(workload, prompts, words, prefix_words, num_prefixes, output, seed)
    with ChatEndpoint.connect(url) as endpoint:
        base_url, model = endpoint.base_url, endpoint.name
    reports = asyncio.run(
        _measured(base_url, model, api, asked, load, warmup=warmup, ignore_eos=not natural_end)
    )
    title = f"{model} at {base_url}"
    if plot is not None:
        write_page(reports, plot, title=title)
    if as_json:
        source = workload if prompts is None else str(prompts)
        setup = {"url": base_url, "model": model, "api": api, "workload": source, "seed": seed}
        found = saturation(reports)
        told = {"saturation": None if found is None else asdict(found)}
        print_json({**setup, **told, "levels": [asdict(report) for report in reports]})
    else:
        print_reports(reports, title=title, seed=seed)


def _prompts(
    workload: str,
    path: Path | None,
    words: str,
    prefix_words: str,
    num_prefixes: int,
    output: str,
    seed: int,
) -> "Iterator[Prompt]":
    from pharos.serve.bench import Span, file_prompts, random_prompts, shared_prompts

    out = Span.parse(output)
    if path is not None:
        return file_prompts(path, output=out, seed=seed)
    if workload == "random":
        return random_prompts(words=Span.parse(words), output=out, seed=seed)
    return shared_prompts(
        num_prefixes=num_prefixes,
        prefix=Span.parse(prefix_words),
        words=Span.parse(words),
        output=out,
        seed=seed,
    )


async def _measured(
    base_url: str,
    model: str,
    api: "Api",
    prompts: "Iterator[Prompt]",
    load: "Load",
    *,
    warmup: int,
    ignore_eos: bool,
) -> "list[LoadReport]":
    from pharos.cli.terminal import note
    from pharos.serve.bench import BenchClient, closed_loop, measure

    reports = []
    async with BenchClient(base_url, model=model, api=api, ignore_eos=ignore_eos) as client:
        await closed_loop(client, prompts, num_requests=warmup, concurrency=1)
        async for report in measure(client, prompts, load):
            if report.num_failed == report.num_requests:
                raise EndpointError(_all_failed(next(iter(report.failures))))
            reports.append(report)
            if load.is_sweep:
                note(f"at {report.level:g}: {report.output_throughput:,.1f} tokens a second")
    return reports


def _all_failed(reason: str) -> str:
    is_strict = "ignore_eos" in reason
    hint = "; leave the field out with --natural-end" if is_strict else ""
    return f"every request failed: {reason}{hint}"
