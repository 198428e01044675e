"""`pharos generate`: a model of this machine continues a text."""

import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import JsonOption
from pharos.cli.sampling import (
    DeviceOption,
    DTypeOption,
    FrequencyOption,
    MaxTokensOption,
    MinPOption,
    PresenceOption,
    QuantizationOption,
    RepetitionOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
)

if TYPE_CHECKING:
    from pharos.core import SamplingParams
    from pharos.serve.local import LocalModel, LocalSeq2Seq, Piece

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A folder, a short name, or a hub id (owner/name).",
    ),
]


def generate(
    name: ModelArgument,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", show_default=False, help="The text; - reads stdin.")
    ],
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionOption = 1.0,
    presence_penalty: PresenceOption = 0.0,
    frequency_penalty: FrequencyOption = 0.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    beams: Annotated[
        int | None,
        typer.Option(
            "--beams",
            metavar="N",
            min=1,
            show_default=False,
            help="Beams of the search; for encoder-decoders (T5, Marian). Else as their files say.",
        ),
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs",
            metavar="N",
            show_default=False,
            help="With --json: each token's log-probability, and those of the N likeliest.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE.html",
            show_default=False,
            help="Write a page that shows each layer's attention and next-token candidates.",
        ),
    ] = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a text, as the model would; the text is printed as it comes.

    \b
    Examples:
      pharos generate path/to/model "Once upon a time"
      pharos generate path/to/model "def add(a, b):" --stop "def " --temperature 0.7 --seed 1
      pharos generate path/to/t5 "translate English to German: Good morning." --beams 4
      pharos generate path/to/model "The capital of France is" --trace trace.html

    An encoder-decoder reads the text and writes another.
    """
    from pharos.cli.terminal import note, print_json, saying, shown_path
    from pharos.core import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        logprobs=logprobs,
    )
    if logprobs is not None and not as_json:
        raise typer.BadParameter("--logprobs are printed with --json")
    if trace is not None and not trace.parent.is_dir():
        raise typer.BadParameter(f"--trace: {trace.parent} is not a folder")
    text = utf8(sys.stdin.buffer.read() if prompt == "-" else prompt)
    from pharos.serve.local import LocalSeq2Seq, load_local

    model = load_local(name, dtype=dtype, device=device, quantization=quantization)
    if isinstance(model, LocalSeq2Seq):
        refuse_for_seq2seq(model.name, params, trace)
        print_target(model, text, beams, max_tokens, as_json)
        return
    if beams is not None:
        raise typer.BadParameter("--beams is for encoder-decoders; a decoder samples its text")
    started = time.perf_counter()
    first = started
    pieces: list[Piece] = []
    with saying() as say:
        for piece in model.generate(text, params):
            first = time.perf_counter() if not pieces else first
            pieces.append(piece)
            if not as_json:
                say(piece.text)
    ended = time.perf_counter()
    num_new = len(pieces) - 1
    speed = (num_new - 1) / (ended - first) if num_new > 1 else None
    if as_json:
        print_json(completion_object(model, text, pieces, first - started, speed))
    elif sys.stderr.isatty() and speed:
        note(f"{num_new} tokens, {speed:.1f} a second; the first after {first - started:.2f} s")
    if trace is not None:
        write_trace(model, text, pieces, trace)
        note(f"The trace is in {shown_path(trace)}; open it with a browser.")


def utf8(text: str | bytes) -> str:
    """Text from outside; what is not UTF-8 is wrong use."""
    try:
        return text.decode() if isinstance(text, bytes) else text.encode().decode()
    except UnicodeError as error:
        raise typer.BadParameter(
            "the text is not UTF-8; convert it, with iconv for example"
        ) from error


def refuse_for_seq2seq(name: str, params: "SamplingParams", trace: Path | None) -> None:
    """What is for decoders must not be ignored."""
    usual = type(params)(max_tokens=params.max_tokens)
    given = [
        field.name
        for field in fields(params)
        if getattr(params, field.name) != getattr(usual, field.name)
    ]
    given += ["trace"] if trace is not None else []
    if given:
        options = ", ".join(f"--{option.replace('_', '-')}" for option in given)
        raise typer.BadParameter(
            f"{options}: for a decoder; {name} is an encoder-decoder, whose text is searched for "
            "(--beams, --max-tokens)"
        )


def write_trace(model: "LocalModel", prompt: str, pieces: "list[Piece]", path: Path) -> None:
    """The page that shows how the model read `prompt` and what it wrote."""
    from pharos.models.trace import trace
    from pharos.serve.trace_page import trace_page

    written = [piece.token.id for piece in pieces if piece.token is not None]
    found = trace(model.model, model.text_ids(prompt), written)
    page = trace_page(found, model.tokenizer, name=model.name)
    path.write_text(page, encoding="utf-8", errors="replace")


def print_target(
    model: "LocalSeq2Seq", text: str, beams: int | None, max_tokens: int, as_json: bool
) -> None:
    """What an encoder-decoder writes for `text`."""
    from pharos.cli.terminal import print_json, saying

    found = model.generate(text, num_beams=beams, max_tokens=max_tokens)
    if as_json:
        targets = [{"text": model.decode(target), "score": target.score} for target in found]
        print_json({"text": targets[0]["text"], "targets": targets})
        return
    with saying() as say:
        say(model.decode(found[0]))


def completion_object(
    model: "LocalModel", prompt: str, pieces: "list[Piece]", first_s: float, speed: float | None
) -> dict[str, Any]:
    """What `--json` prints."""
    tokens = [piece.token for piece in pieces if piece.token is not None]
    return {
        "text": "".join(piece.text for piece in pieces),
        "finish_reason": pieces[-1].finish_reason,
        "prompt_tokens": len(model.text_ids(prompt)),
        "completion_tokens": len(tokens),
        "tokens": [
            {
                "id": token.id,
                "token": model.tokenizer.token(token.id),
                **({} if token.logprob is None else {"logprob": token.logprob}),
                **(
                    {}
                    if token.logprob is None
                    else {
                        "top_logprobs": [
                            {
                                "id": candidate.id,
                                "token": model.tokenizer.token(candidate.id),
                                "logprob": candidate.logprob,
                            }
                            for candidate in token.candidates
                        ]
                    }
                ),
            }
            for token in tokens
        ],
        "first_token_ms": first_s * 1000,
        "tokens_per_second": speed,
    }
