"""`pharos tokenizer`: learn a vocabulary, look into one, see what it makes of a text."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pharos.cli.options import JsonOption

if TYPE_CHECKING:
    from pharos.data.tokenizer import Tokenizer
    from pharos.data.train_tokenizer import TextFiles

tokenizer = typer.Typer(
    name="tokenizer",
    help="Learn a vocabulary, look into one, see what it makes of a text.",
    epilog='Example: pharos tokenizer encode path/to/model "the lighthouse"',
    no_args_is_help=True,
    rich_markup_mode=None,
)
HELD_OUT_EVERY = 100
MAX_HELD_OUT = 10_000
LONGEST_SHOWN = 8

TokenizerArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A folder with a tokenizer.json, a short name, or a hub id (owner/name).",
    ),
]


@tokenizer.command()
def train(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", show_default=False, help="Texts in UTF-8."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", show_default=False, help="The folder to write."),
    ],
    kind: Annotated[
        Literal["bpe", "wordpiece", "unigram", "characters"],
        typer.Option(
            "--kind",
            help="As in Llama 3 and GPT-2; in BERT; in T5 and Gemma; each character a token.",
        ),
    ] = "bpe",
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", metavar="N", help="Tokens, special ones included.")
    ] = 32_000,
    special: Annotated[
        list[str] | None,
        typer.Option("--special", metavar="TOKEN", help="A token never cut; repeatable."),
    ] = None,
    min_frequency: Annotated[
        int,
        typer.Option("--min-frequency", metavar="N", help="Rarer pairs are not merged."),
    ] = 2,
    keep_case: Annotated[
        bool, typer.Option("--keep-case", help="For wordpiece: keep capitals and accents.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn a vocabulary from files of text.

    Every hundredth line is held out, to measure the vocabulary on what it has not seen; not of
    characters, which must all be seen.

    \b
    Examples:
      pharos tokenizer train corpus/*.txt --vocab-size 32000 --out my-tokenizer
      pharos tokenizer train chats.txt --special "<|im_start|>" --special "<|im_end|>" --out chat
      pharos tokenizer train corpus.txt --kind wordpiece --vocab-size 30522 --out bert
      pharos tokenizer train shakespeare.txt --kind characters --out letters
    """
    from pharos.cli.progress import learning_bar
    from pharos.cli.terminal import note
    from pharos.data.train_tokenizer import TextFiles, TokenizerConfig, train_tokenizer

    if (out / "tokenizer.json").exists():
        raise typer.BadParameter(f"{out} holds a tokenizer already; name another folder")
    config = TokenizerConfig(
        kind=kind,
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=tuple(special or ()),
        lowercase=not keep_case,
    )
    is_closed = kind == "characters"  # what is not learned cannot be written
    num_walks = 2 if kind == "wordpiece" else 1
    with learning_bar(num_walks * sum(file.stat().st_size for file in files)) as on_bytes:
        texts = HoldingOut(TextFiles(files, on_bytes), every=0 if is_closed else HELD_OUT_EVERY)
        trained = train_tokenizer(texts, config)
    trained.save(out)
    if trained.vocab_size < vocab_size and not is_closed:
        note(f"the texts filled {trained.vocab_size:,} of {vocab_size:,} tokens: give more of them")
    facts = {"folder": str(out), **described(trained)}
    if texts.held_out:
        facts["held_out"] = measured(trained, texts.held_out)
    show(out, facts, as_json=as_json)


@tokenizer.command()
def encode(
    name: TokenizerArgument,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", show_default=False, help="What to encode; else stdin."),
    ] = None,
    no_special: Annotated[
        bool, typer.Option("--no-special", help="Put no <s>, [CLS] or the like around it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the tokens of a text, each with its id.

    \b
    Examples:
      pharos tokenizer encode all-MiniLM-L6-v2 "The lighthouse of Alexandria"
      pharos tokenizer encode path/to/model --json < chapter.txt
    """
    from pharos.cli import rendering, terminal

    loaded = load(name)
    text = sys.stdin.read() if text is None else text
    pieces = loaded.pieces(text, add_special_tokens=not no_special)
    if as_json:
        rows = [asdict(piece) for piece in pieces]
        terminal.print_json({"text": text, "ids": [piece.id for piece in pieces], "pieces": rows})
        return
    rendering.print_pieces(text, pieces)
    terminal.note(f"{len(pieces):,} tokens, {len(text):,} characters")


@tokenizer.command()
def inspect(
    name: TokenizerArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", show_default=False, help="Texts to measure it on."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a tokenizer is made of, and how it fits texts.

    \b
    Examples:
      pharos tokenizer inspect all-MiniLM-L6-v2
      pharos tokenizer inspect path/to/model corpus/*.txt
    """
    from pharos.data.chat_template import template_sources
    from pharos.data.train_tokenizer import TextFiles

    folder = folder_of(name)
    loaded = load(name)
    facts: dict[str, Any] = {
        "folder": str(folder),
        **described(loaded),
        "chat_templates": list(template_sources(folder)),
        "longest_tokens": longest_tokens(loaded),
    }
    if files:
        facts["on_files"] = measured(loaded, TextFiles(files))
    show(folder, facts, as_json=as_json)


@dataclass
class HoldingOut:
    """The lines of `texts`, but for each of number `every` (0: none), which are kept in
    `held_out`."""

    texts: "TextFiles"
    every: int = HELD_OUT_EVERY
    held_out: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        self.held_out.clear()
        for number, line in enumerate(self.texts, start=1):
            if not self.every or number % self.every or len(self.held_out) >= MAX_HELD_OUT:
                yield line
            else:
                self.held_out.append(line)


def folder_of(name: str) -> Path:
    """A folder may hold a tokenizer and no model: one that was just trained."""
    from pharos.models.resolve import find_model

    return Path(name) if Path(name).is_dir() else find_model(name).path


def load(name: str) -> "Tokenizer":
    from pharos.data.tokenizer import Tokenizer

    return Tokenizer.load(folder_of(name))


def described(loaded: "Tokenizer") -> dict[str, Any]:
    special = {loaded.token(id_): id_ for id_ in sorted(loaded.special_ids)}
    return {
        "kind": loaded.kind,
        "vocab_size": loaded.vocab_size,
        "special_tokens": special,
        "roles": dict(loaded.special_tokens),
        "eos_ids": list(loaded.eos_ids),
    }


def longest_tokens(loaded: "Tokenizer") -> list[str]:
    """As the text they stand for, special ones left out."""
    ids = set(loaded.vocabulary().values()) - loaded.special_ids
    texts = {loaded.text_of(id_) for id_ in ids}
    return sorted(texts, key=lambda text: (-len(text), text))[:LONGEST_SHOWN]


def measured(loaded: "Tokenizer", texts: Iterable[str]) -> dict[str, Any]:
    from pharos.data.tokenizer_report import measure

    report = measure(loaded, texts)
    return {
        "lines": report.texts,
        "tokens": report.tokens,
        "tokens_per_word": round(report.fertility, 3),
        "bytes_per_token": round(report.bytes_per_token, 3),
        "unknown_rate": round(report.unknown_rate, 6),
        "vocabulary_used": round(report.vocabulary_used, 4),
    }


def show(folder: Path, facts: Mapping[str, Any], *, as_json: bool) -> None:
    from pharos.cli import rendering, terminal

    if as_json:
        terminal.print_json(facts)
    else:
        rendering.print_fields(folder.resolve().name, {k: in_words(v) for k, v in facts.items()})


def in_words(value: object) -> object:
    """`{"a": 1}` as `a 1`; what is empty is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items()) or None
    if isinstance(value, list):
        return ", ".join(map(repr, value)) or None
    return value
