"""The options that say how a model draws its tokens; their names are `core.SamplingParams`'."""

from typing import Annotated, Literal

import typer

DTypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="What the weights are computed in; auto: as in the file."),
]
QuantizationOption = Annotated[
    Literal["w8a8", "w8a16"] | None,
    typer.Option(
        "--quantization",
        show_default=False,
        help="Eight-bit weights, on a CPU; w8a8: what they multiply too, the fastest.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, …; auto: a GPU if any.")
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="NAME",
        show_default=False,
        help="A built-in chat template: alpaca, chatml, llama-3, mistral. Else the model's own.",
    ),
]
MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", metavar="N", help="Stop after so many tokens.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", metavar="X", help="0: always the likeliest token.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", metavar="X", help="The likeliest tokens that reach X together.")
]
TopKOption = Annotated[
    int, typer.Option("--top-k", metavar="N", help="The N likeliest tokens; 0: all.")
]
MinPOption = Annotated[
    float, typer.Option("--min-p", metavar="X", help="At least X of the likeliest one's share.")
]
RepetitionOption = Annotated[
    float,
    typer.Option("--repetition-penalty", metavar="X", help="Above 1: less of what was seen."),
]
PresenceOption = Annotated[
    float,
    typer.Option("--presence-penalty", metavar="X", help="Off the score of what was generated."),
]
FrequencyOption = Annotated[
    float, typer.Option("--frequency-penalty", metavar="X", help="The same, for each time.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", show_default=False, help="For the same text again."),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; repeatable."),
]
