"""`pharos chat`: a conversation with a model of this machine."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pharos.cli.generate import ModelArgument, utf8
from pharos.cli.sampling import (
    DeviceOption,
    DTypeOption,
    MaxTokensOption,
    MinPOption,
    QuantizationOption,
    RepetitionOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TemplateOption,
    TopKOption,
    TopPOption,
)

if TYPE_CHECKING:
    from pharos.core import Message, SamplingParams
    from pharos.serve.local import LocalModel

COMMANDS = "/reset forgets the conversation, /quit ends it; Ctrl-C cuts a reply short"


def chat(
    name: ModelArgument,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="TEXT", show_default=False, help="What the model is told first."
        ),
    ] = None,
    template: TemplateOption = None,
    max_tokens: MaxTokensOption = 512,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.9,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionOption = 1.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
) -> None:
    """Talk with a model. A line is a message; piped in, each line is one too.

    \b
    Examples:
      pharos chat path/to/model
      pharos chat path/to/model --system "Answer in one sentence." --temperature 0
      echo "What is a lighthouse?" | pharos chat path/to/model --seed 1

    /reset forgets the conversation, /quit (or Ctrl-D) ends it, Ctrl-C cuts a reply short.
    """
    from pharos.cli.terminal import note
    from pharos.core import Message, SamplingParams
    from pharos.serve.local import LocalSeq2Seq, load_local

    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    model = load_local(
        name, template=template, dtype=dtype, device=device, quantization=quantization
    )
    if isinstance(model, LocalSeq2Seq):
        raise typer.BadParameter(f"{model.name} rewrites texts; use pharos generate")
    model.prompt_ids([Message(role="user", content="")])  # no template: say so at once
    if sys.stdin.isatty():
        note(COMMANDS)
    converse(model, params, system)


def converse(model: "LocalModel", params: "SamplingParams", system: str | None) -> None:
    """Message and reply in turns, until stdin ends."""
    from pharos.cli.terminal import note
    from pharos.core import Message

    beginning = [Message(role="system", content=system)] if system else []
    messages = list(beginning)
    while (line := read_line()) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            messages = list(beginning)
        elif line.startswith("/"):
            note(f"unknown command {line}; {COMMANDS}")
        elif line:
            asked = [*messages, Message(role="user", content=line)]
            try:
                messages = [*asked, Message(role="assistant", content=reply(model, asked, params))]
            except ValueError as error:  # no room for this message and its reply
                note(f"{error}; /reset begins anew")


def reply(model: "LocalModel", messages: "list[Message]", params: "SamplingParams") -> str:
    """Print the model's next message as it comes, and return it; Ctrl-C keeps what there is."""
    from pharos.cli.terminal import saying

    pieces: list[str] = []
    with saying() as say:
        try:
            for piece in model.stream(messages, params):
                pieces.append(piece)
                say(piece)
        except KeyboardInterrupt:
            say(" …")
    return "".join(pieces)


def read_line() -> str | None:
    """The next message, or None at the end."""
    is_typed = sys.stdin.isatty()
    try:
        if is_typed:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = utf8(sys.stdin.buffer.readline())
    except KeyboardInterrupt:
        return None
    return line.strip() if line else None
