"""`pharos ask`: a cited answer, or none."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import (
    FilterOption,
    GroupOption,
    JsonOption,
    LibraryOption,
    library_folder,
    metadata_filters,
    reader_groups,
)
from pharos.core import DocumentError

if TYPE_CHECKING:
    from pharos.core import Answer, Citation, LanguageModel
    from pharos.rag import Library

ABSTAINED = 3


def ask(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", show_default=False, help="In plain words.")
    ],
    docs: Annotated[
        list[str] | None,
        typer.Option(
            "--docs",
            metavar="PATH",
            help="Ingest this file, folder or glob first; repeatable. Without --library it goes "
            "into a library of its own, kept for the next question.",
        ),
    ] = None,
    library: LibraryOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="URL|DIR",
            help="Let this OpenAI-compatible endpoint, or the model in this folder, phrase the "
            "answer; what its sources do not bear out is dropped. Without it the documents are "
            "quoted.",
        ),
    ] = None,
    keep_unsupported: Annotated[
        bool,
        typer.Option(
            "--keep-unsupported", help="With --model: mark what is not borne out, keep it."
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="X",
            min=0.0,
            max=1.0,
            help="Answer from this confidence upwards.",
        ),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", metavar="N", min=1, help="How many passages are read.")
    ] = 10,
    groups: GroupOption = None,
    filters: FilterOption = None,
    as_json: JsonOption = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show on stderr how the answer came about.")
    ] = False,
) -> None:
    """Answer a question, with the sources of every sentence.

    \b
    Examples:
      pharos ask "How is a role dropped?" --docs manuals/
      pharos ask "How is a role dropped?" --library manuals.library --json

    Exit codes: 0 answered, 3 abstained, 2 wrong use, 1 failure.
    """
    from pharos.cli.explanation import print_explanation
    from pharos.cli.rendering import explain_answer, print_answer
    from pharos.cli.terminal import note, print_json, saying
    from pharos.rag import Library

    if not question.strip():
        raise typer.BadParameter("the question is empty; ask something")
    if keep_unsupported and model is None:
        raise typer.BadParameter("--keep-unsupported needs --model: what is quoted is borne out")
    asker, wanted = reader_groups(groups), metadata_filters(filters)
    folder = library_folder(library) if library or not docs else docs_folder(docs, asker)
    opened = Library.open(folder, create=bool(docs))
    if docs and library:
        bring_up_to_date(opened, docs, groups=None, prune=False)
    elif docs:
        if not folder.exists():
            note(f"kept for the next question, and safe to delete: {folder}")
        bring_up_to_date(opened, docs, groups=asker, prune=True)
    is_streamed = model is not None and not as_json
    with language_model(model) as writer, saying() as say:
        answer = opened.ask(
            question,
            k=k,
            groups=asker,
            filters=wanted,
            model=writer,
            threshold=threshold,
            keep_unsupported=keep_unsupported,
            explain=explain,
            on_text=say if is_streamed else None,
        )
    if as_json:
        print_json(answer_object(answer))
    else:
        print_answer(answer, is_said=is_streamed)
    if answer.explanation is not None:
        explain_answer(answer)
        print_explanation(answer.explanation)
    raise typer.Exit(ABSTAINED if answer.abstained else 0)


def bring_up_to_date(
    library: "Library", docs: list[str], *, groups: tuple[str, ...] | None, prune: bool
) -> None:
    """Ingest `docs`; what could not be read is said on stderr. Raises DocumentError if nothing
    could, for then there is nothing to ask."""
    from pharos.cli.ingest import ingest_with_bars, nothing_read
    from pharos.cli.terminal import note

    report = ingest_with_bars(library, docs, groups=groups, prune=prune, transient=True)
    if nothing_read(report):
        first, *others = report.failures
        more = f" (and {len(others):,} more)" if others else ""
        raise DocumentError(f"nothing could be read: {first.source}: {first.reason}{more}")
    for failure in report.failures:
        note(f"not read: {failure.source}: {failure.reason}")


def language_model(name: str | None) -> "AbstractContextManager[LanguageModel | None]":
    """The endpoint at a URL, or the model that a folder or a short name leads to."""
    if name is None:
        return nullcontext()
    if "://" in name:
        from pharos.serve import ChatEndpoint

        return ChatEndpoint.connect(name)
    from pharos.serve.local import LocalSeq2Seq, load_local

    model = load_local(name)
    if isinstance(model, LocalSeq2Seq):
        raise typer.BadParameter(f"{model.name} rewrites texts; --model needs one made for chat")
    return nullcontext(model)


def docs_folder(docs: list[str], groups: tuple[str, ...]) -> Path:
    """The library kept for these paths: the same paths and groups find it again."""
    import hashlib

    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    places = sorted({str(Path(path).resolve()) for path in docs})
    digest = hashlib.sha256("\0".join([*places, "", *sorted(groups)]).encode("utf-8", "replace"))
    return data / "pharos" / "asked" / digest.hexdigest()[:16]


def answer_object(answer: "Answer") -> dict[str, Any]:
    """What `--json` prints. The keys are an interface: add none, drop none. (`explain` is there
    with `--explain` alone.)"""
    from pharos.cli.explanation import explanation_object

    explanation = answer.explanation
    return {
        "answer": answer.answer,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "citations": [citation_object(citation) for citation in answer.citations],
        "timings_ms": dict(answer.timings_ms),
        **({} if explanation is None else {"explain": explanation_object(explanation)}),
    }


def citation_object(citation: "Citation") -> dict[str, Any]:
    return {
        "document": citation.document,
        "title": citation.title,
        "headings": list(citation.headings),
        "page": citation.page,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
        "score": citation.score,
    }
