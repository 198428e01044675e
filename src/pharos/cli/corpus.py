"""`pharos corpus`: documents to token shards, and what is in them."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pharos.cli.options import JsonOption
from pharos.core import CorpusError

if TYPE_CHECKING:
    from pharos.data.corpus import CorpusReport
    from pharos.data.shards import Shards
    from pharos.data.text_sources import TextSource

corpus = typer.Typer(
    name="corpus",
    help="Make token shards to train on of documents, and look into them.",
    epilog="Example: pharos corpus build texts/ --tokenizer my-tokenizer --out shards",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SAMPLE_TOKENS = 200
MOST_FAILURES = 20


@corpus.command()
def build(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="Files, folders, globs: documents of all kinds, .txt, .jsonl, .parquet.",
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="MODEL",
            show_default=False,
            help="A folder with a tokenizer.json, a short name, or a hub id.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", show_default=False, help="The folder to write."),
    ],
    division: Annotated[
        Literal["file", "line", "paragraph"],
        typer.Option("--document", help="What one document of a .txt file is."),
    ] = "file",
    text_field: Annotated[
        str,
        typer.Option("--text-field", metavar="NAME", help="Where .jsonl and .parquet have it."),
    ] = "text",
    near: Annotated[
        float,
        typer.Option(
            "--near", metavar="0.5-1", help="Similar from here on is the same; 0: only equal texts."
        ),
    ] = 0.8,
    no_clean: Annotated[bool, typer.Option("--no-clean", help="Leave characters alone.")] = False,
    no_dedup: Annotated[bool, typer.Option("--no-dedup", help="Keep duplicates.")] = False,
    no_quality: Annotated[
        bool, typer.Option("--no-quality", help="Keep texts of any quality and length.")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos", help="Begin each document with a BOS.")] = False,
    no_eos: Annotated[bool, typer.Option("--no-eos", help="End no document with an EOS.")] = False,
    tokens_per_shard: Annotated[
        int, typer.Option("--tokens-per-shard", metavar="N", help="How large a file grows.")
    ] = 100_000_000,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes; 0: one for each core.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make token shards of documents: cleaned, without duplicates, filtered, tokenized.

    Stopped at any moment, the same command goes on behind the last complete shard. The result does
    not depend on the number of workers. The rules of quality are for running text in English.

    \b
    Examples:
      pharos corpus build texts/ --tokenizer my-tokenizer --out shards
      pharos corpus build crawl/*.jsonl.gz --text-field content --tokenizer gpt2 --out shards
      pharos corpus build shakespeare.txt --no-clean --no-dedup --no-quality \\
        --tokenizer letters --out shakespeare
    """
    from pharos.cli.tokenizer import load
    from pharos.data.corpus import CorpusConfig, CorpusReport, corpus_texts
    from pharos.data.quality import QualityConfig
    from pharos.data.text_sources import SourceConfig, TextSource
    from pharos.data.tokenize_corpus import Boundaries, tokenize_texts

    refuse_to_read_what_is_written(paths, out)
    config = CorpusConfig(
        clean=not no_clean,
        exact=not no_dedup,
        near_threshold=None if no_dedup or not near else near,
        quality=None if no_quality else QualityConfig(),
    )
    crew = workers or usable_cores()
    loaded = load(tokenizer)
    boundaries = Boundaries.of(loaded, bos=bos, eos=False if no_eos else None)
    source = TextSource(paths, SourceConfig(text_field=text_field, division=division), crew)
    report, started = CorpusReport(), time.monotonic()
    with building_bar(source) as on_tokens, telling_why(report):
        shards = tokenize_texts(
            corpus_texts(source, config, report, workers=crew),
            loaded,
            out,
            boundaries=boundaries,
            workers=crew,
            tokens_per_shard=tokens_per_shard,
            on_tokens=on_tokens,
        )
    show_built(shards, report, source.failures, time.monotonic() - started, as_json=as_json)


@corpus.command()
def show(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="A folder of token shards.")
    ],
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=0, help="How many documents to show.")
    ] = 3,
    check: Annotated[
        bool, typer.Option("--check", help="Read all files and compare their checksums.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what token shards hold, and how some of their documents begin.

    \b
    Example:
      pharos corpus show shards --samples 5
    """
    from pharos.cli import rendering, terminal
    from pharos.data.shards import Shards

    shards = Shards.open(folder)
    if check:
        shards.check()
    facts, shown = described(shards), sampled(shards, samples)
    if as_json:
        terminal.print_json({**facts, "samples": shown})
        return
    rendering.print_fields(folder.resolve().name, in_words(facts))
    for sample in shown:
        title = f"document {sample['document']:,}, {sample['tokens']:,} tokens"
        rendering.print_fields(title, {"begins": sample["text"]})


def refuse_to_read_what_is_written(paths: Sequence[str], out: Path) -> None:
    for path in map(Path, paths):
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise typer.BadParameter(f"--out {out} lies in {path}, which is read; name another")


@contextmanager
def telling_why(report: "CorpusReport") -> Iterator[None]:
    """Where it fails because no text was kept, say what became of them."""
    from pharos.cli.terminal import note

    try:
        yield
    except CorpusError:
        if report.read and not report.kept:
            counts = {
                "empty": report.empty,
                "exact_duplicates": report.exact_duplicates,
                "near_duplicates": report.near_duplicates,
                **report.low_quality,
            }
            why = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
            note(f"none of {report.read:,} texts was kept: {why}")
        raise


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show_built(
    shards: "Shards",
    report: "CorpusReport",
    failures: Sequence[tuple[str, str]],
    seconds: float,
    *,
    as_json: bool,
) -> None:
    from pharos.cli import rendering, terminal

    stages = asdict(report)
    if as_json:
        failed = [{"source": source, "reason": reason} for source, reason in failures]
        facts = {**described(shards), "texts": stages, "failures": failed, "seconds": seconds}
        terminal.print_json(facts)
        return
    rendering.print_fields(shards.folder.resolve().name, in_words(described(shards)))
    rendering.print_fields("texts", in_words(stages))
    for source, reason in failures[:MOST_FAILURES]:
        terminal.note(f"{terminal.shown_path(source)}: {terminal.one_line(reason)}")
    if len(failures) > MOST_FAILURES:
        terminal.note(f"… and {len(failures) - MOST_FAILURES:,} more files; --json lists all")


def described(shards: "Shards") -> dict[str, Any]:
    import numpy as np

    lengths = shards.lengths
    return {
        "folder": str(shards.folder),
        "documents": shards.num_documents,
        "tokens": shards.num_tokens,
        "median_length": int(np.median(lengths)),
        "longest": int(lengths.max()),
        "vocab_size": shards.vocab_size,
        "dtype": shards.index.dtype,
        "files": len(shards.index.shards),
    }


def sampled(shards: "Shards", count: int) -> list[dict[str, Any]]:
    """Documents at equal distances, each with how it begins, special tokens shown."""
    tokenizer = shards.tokenizer()
    count = min(count, shards.num_documents)
    numbers = [i * shards.num_documents // count for i in range(count)]
    return [
        {
            "document": number,
            "tokens": int(shards.lengths[number]),
            "text": tokenizer.decode(
                shards.document(number)[:SAMPLE_TOKENS].tolist(), skip_special=False
            ),
        }
        for number in numbers
    ]


def in_words(facts: dict[str, Any]) -> dict[str, object]:
    """Numbers with their thousands; what is empty is left out."""
    words: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            ranked = sorted(value.items(), key=lambda item: -item[1])
            words[name] = ", ".join(f"{one} {times:,}" for one, times in ranked) or None
        else:
            words[name] = f"{value:,}" if isinstance(value, int) else value
    return words


@contextmanager
def building_bar(source: "TextSource") -> Iterator[Callable[[int, int], None]]:
    """Draws how much was read and tokenized, not into a file or a pipe. Yields what is to be told
    of documents and tokens."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from pharos.cli.terminal import messages, note

    columns = (
        BarColumn(bar_width=24),
        DownloadColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = messages()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None, amount="")

        def tell(documents: int, tokens: int) -> None:
            rate = tokens / max(bars.tasks[task].elapsed or 0.0, 0.1)
            bars.update(
                task,
                completed=source.bytes_read,
                total=source.bytes_total,
                amount=f"{documents:,} documents, {tokens:,} tokens, {rate:,.0f}/s",
            )

        try:
            yield tell
        except KeyboardInterrupt:
            note("Stopped. The same command goes on behind the last complete shard.")
            raise
