"""`pharos serve`: a model of this machine behind an OpenAI-compatible endpoint."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pharos.cli.generate import ModelArgument
from pharos.cli.sampling import DeviceOption, DTypeOption, QuantizationOption, TemplateOption

if TYPE_CHECKING:
    from pharos.serve.engine.build import EngineConfig
    from pharos.serve.http.config import HttpConfig

PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "llguidance")
"""Those of the extra `serve`."""


def serve(
    name: ModelArgument,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0: any that is free.")
    ] = 8000,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0: for other machines too.")
    ] = "127.0.0.1",
    served_name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", show_default=False, help="What clients call it; else MODEL."
        ),
    ] = None,
    template: TemplateOption = None,
    tool_format: Annotated[
        Literal["hermes", "llama", "mistral"] | None,
        typer.Option(
            "--tool-format", show_default=False, help="How it writes calls; else as its template."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=DIR", help="Serve a LoRA adapter too; repeatable."),
    ] = None,
    adapters_folder: Annotated[
        Path | None,
        typer.Option(
            "--adapters-folder",
            metavar="DIR",
            show_default=False,
            help="Let clients load adapters from below this folder.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            show_default=False,
            help="Serve only who has one of the keys in it, one a line.",
        ),
    ] = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len",
            metavar="N",
            show_default=False,
            help="Tokens of the longest prompt with its answer; else what the model was made for.",
        ),
    ] = None,
    max_num_seqs: Annotated[
        int, typer.Option("--max-num-seqs", metavar="N", help="Texts written at a time.")
    ] = 64,
    max_num_batched_tokens: Annotated[
        int, typer.Option("--max-num-batched-tokens", metavar="N", help="Tokens of a step.")
    ] = 2048,
    num_blocks: Annotated[
        int | None,
        typer.Option(
            "--num-blocks",
            metavar="N",
            show_default=False,
            help="Blocks of 16 tokens of keys and values; else as many as there is memory for.",
        ),
    ] = None,
    num_host_blocks: Annotated[
        int, typer.Option("--num-host-blocks", metavar="N", help="More of them in host memory.")
    ] = 0,
    tensor_parallel: Annotated[
        int,
        typer.Option(
            "--tensor-parallel",
            metavar="N",
            min=1,
            help="Split the model over N processes, each with a GPU of its own if there are any.",
        ),
    ] = 1,
    prefix_cache: Annotated[
        bool,
        typer.Option("--prefix-cache/--no-prefix-cache", help="Keep what prompts begin with."),
    ] = True,
    cuda_graphs: Annotated[
        bool,
        typer.Option("--cuda-graphs/--no-cuda-graphs", help="On a GPU, replay steps that write."),
    ] = True,
    speculate: Annotated[
        bool,
        typer.Option("--speculate", help="Guess tokens from the text so far, where it pays."),
    ] = False,
    draft_model: Annotated[
        str | None,
        typer.Option(
            "--draft-model",
            metavar="MODEL",
            show_default=False,
            help="Let a small model of the same vocabulary guess them.",
        ),
    ] = None,
    max_drafts: Annotated[
        int, typer.Option("--max-drafts", metavar="N", help="Guesses for a text in a step.")
    ] = 6,
    pooling: Annotated[
        Literal["last", "mean"], typer.Option("--pooling", help="What is the vector of a text.")
    ] = "last",
    max_pending: Annotated[
        int, typer.Option("--max-pending", metavar="N", help="Requests that run or wait; then 429.")
    ] = 256,
    max_choices: Annotated[
        int, typer.Option("--max-choices", metavar="N", help="Texts for one request.")
    ] = 16,
    max_output_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-output-tokens",
            metavar="N",
            show_default=False,
            help="Tokens of one answer; else what is left of the context.",
        ),
    ] = None,
    max_body_mb: Annotated[
        int, typer.Option("--max-body-mb", metavar="N", help="Megabytes of one request.")
    ] = 16,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="The longest that one may take.")
    ] = 600.0,
    drain: Annotated[
        float, typer.Option("--drain", metavar="SECONDS", help="For what runs, on SIGTERM.")
    ] = 30.0,
) -> None:
    """Serve a model over HTTP, in the format of the OpenAI API.

    \b
    Examples:
      pharos serve path/to/model
      pharos serve path/to/model --template chatml --port 8080 --max-model-len 4096
      pharos serve path/to/model --quantization w8a8 --draft-model path/to/small
      pharos serve path/to/model --adapter legal=adapters/legal --adapter sql=adapters/sql
      pharos serve path/to/model --host 0.0.0.0 --api-key-file keys.txt

    Clients use http://127.0.0.1:8000/v1 as the base URL. Ctrl-C or SIGTERM ends it, once what runs
    has ended.
    """
    refuse_without(PACKAGES)
    import asyncio

    from pharos.serve.engine.build import EngineConfig, SpeculationConfig
    from pharos.serve.engine.scheduler import SchedulerConfig
    from pharos.serve.http.config import HttpConfig, read_keys

    engine_config = EngineConfig(
        scheduler=SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
        ),
        num_blocks=num_blocks,
        num_host_blocks=num_host_blocks,
        prefix_cache=prefix_cache,
        dtype=dtype,
        device=device,
        quantization=quantization,
        pooling=pooling,
        tensor_parallel=tensor_parallel,
        cuda_graphs=cuda_graphs,
        speculation=(
            SpeculationConfig(draft_model=draft_model, max_drafts=max_drafts)
            if speculate or draft_model is not None
            else None
        ),
    )
    http_config = HttpConfig(
        max_pending=max_pending,
        max_body_bytes=max_body_mb << 20,
        max_choices=max_choices,
        max_output_tokens=max_output_tokens,
        timeout_s=timeout,
        drain_s=drain,
        adapters_folder=adapters_folder,
        api_keys=frozenset() if api_key_file is None else read_keys(api_key_file),
    )
    if tensor_parallel > 1 and (adapter or adapters_folder):
        raise typer.BadParameter(
            f"--tensor-parallel is {tensor_parallel}, and adapters are for a model in one process; "
            "leave one of the two out, or merge the adapter into the model"
        )
    adapters = named_folders(adapter or ())
    asyncio.run(
        served_until_stopped(
            name,
            served_name,
            engine_config,
            http_config,
            adapters=adapters,
            template=template,
            tool_format=tool_format,
            host=host,
            port=port,
        )
    )


def refuse_without(packages: Sequence[str]) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise typer.BadParameter(
            f'serving needs {", ".join(missing)}: pip install "pharos-llm[serve]"'
        )


async def served_until_stopped(
    name: str,
    served_name: str | None,
    engine_config: "EngineConfig",
    http_config: "HttpConfig",
    *,
    adapters: dict[str, Path],
    template: str | None,
    tool_format: str | None,
    host: str,
    port: int,
) -> None:
    """Loads the model in a process of its own, and serves it until a signal comes."""
    import logging
    from dataclasses import replace
    from functools import partial

    from pharos.cli.terminal import note
    from pharos.models.resolve import find_model
    from pharos.serve.engine.build import build_engine
    from pharos.serve.engine.client import EngineClient
    from pharos.serve.engine.hosts import InProcess
    from pharos.serve.http.app import create_app
    from pharos.serve.http.served import load_served
    from pharos.serve.http.server import address_of, bound_socket, run_server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listener = bound_socket(host, port)
    folder = find_model(name)
    async with EngineClient(InProcess(partial(build_engine, name, engine_config))) as engine:
        model = load_served(
            folder.path,
            name=served_name or folder.name,
            max_len=engine.max_len,
            template=template,
            tool_format=tool_format,
        )
        for adapter, path in adapters.items():
            await engine.load_adapter(adapter, path)
            model.adapters[adapter] = path
        address = address_of(listener)
        http_config = replace(http_config, is_local=is_loopback(listener.getsockname()[0]))
        if not http_config.api_keys and not http_config.is_local:
            note("Without --api-key-file, everybody who reaches this address may use the model.")

        def told() -> None:
            note(f"{model.name} is served at {address}/v1; Ctrl-C ends it.")

        app = create_app(engine, model, http_config)
        await run_server(app, listener, drain_s=http_config.drain_s, on_start=told)


def is_loopback(address: str) -> bool:
    from ipaddress import ip_address

    return ip_address(address).is_loopback


def named_folders(given: Sequence[str]) -> dict[str, Path]:
    """`["legal=adapters/legal"]` to `{"legal": Path("adapters/legal")}`."""
    pairs = [item.partition("=") for item in given]
    for name, equals, folder in pairs:
        if not name or not folder:
            raise typer.BadParameter(
                f"'{name}{equals}{folder}' is not NAME=DIR, "
                "for example --adapter legal=adapters/legal"
            )
    return {name: Path(folder).resolve() for name, _, folder in pairs}
