"""How fast files become searchable, beside LlamaIndex; and what an ingest of unchanged files costs.

    python -m benchmarks.ingest DOCS ... [--files 300] [--unchanged 5000] [--data DIR] [--json]

DOCS are folders of real manuals, for example Debian's, unpacked without being installed:

    apt-get download postgresql-doc-15 python3.11-doc
    for deb in *.deb; do dpkg-deb -x $deb manuals; done

`--files` of them, spread evenly, are ingested into a new library: parsed, cleaned, cut, rid of
duplicates, embedded, indexed. LlamaIndex reads the same files (HTML with its `HTMLTagReader`, as it
would embed the mark-up otherwise), cuts them into 256 tokens with 20% overlap (so that the model,
which reads 256, leaves nothing out; our windows are of that length too), embeds them with the same
model through sentence-transformers, and stores its index. Both have loaded their model before.

`--unchanged` paragraphs of SQuAD train, a file each, are ingested twice: the second time nothing
has changed. The peer needs llama-index-core, llama-index-readers-file,
llama-index-embeddings-huggingface and sentence-transformers.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets import add_data_argument, squad
from benchmarks.hardware import describe
from benchmarks.peers import load_peers, versions

from pharos.models.resolve import DEFAULT_ENCODER, find_model
from pharos.rag import Library
from pharos.rag.defaults import default_embedder

SUFFIXES = (".html", ".htm", ".pdf", ".md", ".docx", ".epub")
PEERS = (
    "llama-index-core",
    "llama-index-readers-file",
    "llama-index-embeddings-huggingface",
    "sentence-transformers",
)
PEER_CHUNK = 256
PEER_OVERLAP = 51


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """`megabytes` is the size of the files, `text_megabytes` that of the text found in them."""

    system: str
    files: int
    pages: int
    passages: int
    megabytes: float
    text_megabytes: float
    seconds: float

    def row(self) -> str:
        return (
            f"{self.system:11} {self.files:6,} {self.pages:6,} {self.passages:8,} "
            f"{self.text_megabytes:8.2f} {self.seconds:8.1f} {self.pages / self.seconds:8.1f} "
            f"{self.megabytes / self.seconds:8.3f} {self.text_megabytes / self.seconds:10.3f}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """An ingest and the same again with nothing changed, in seconds."""

    files: int
    first_s: float
    again_s: float


def chosen(folders: Sequence[Path], wanted: int) -> list[Path]:
    """At most `wanted` files that both can read, spread evenly over all of them."""
    found = sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
    )
    if not found:
        raise SystemExit(f"no {', '.join(SUFFIXES)} below {', '.join(map(str, folders))}")
    return (
        [found[i * len(found) // wanted] for i in range(wanted)] if wanted < len(found) else found
    )


def ours(files: Sequence[Path], folder: Path) -> Speed:
    library = Library.open(folder)
    started = time.perf_counter()
    report = library.ingest(files)
    seconds = time.perf_counter() - started
    for failure in report.failures:
        say(f"  ours: {failure.source}: {failure.reason}")
    say(f"  ours: {len(report.duplicates)} duplicates left out")
    documents = [library.document(record.source) for record in library.documents()]
    return Speed(
        system="ours",
        files=len(files),
        pages=sum(len(document.pages) or 1 for document in documents),
        passages=report.passages,
        megabytes=megabytes(files),
        text_megabytes=sum(len(document.text.encode()) for document in documents) / 1e6,
        seconds=seconds,
    )


def llama_index(files: Sequence[Path], folder: Path, modules: Mapping[str, Any]) -> Speed:
    core, readers, embeddings = (modules[name] for name in PEERS[:3])
    model = embeddings.HuggingFaceEmbedding(str(find_model(DEFAULT_ENCODER).path), device="cpu")
    model.get_text_embedding("Load all that is loaded late.")
    splitter = core.node_parser.SentenceSplitter(chunk_size=PEER_CHUNK, chunk_overlap=PEER_OVERLAP)
    html = readers.HTMLTagReader(tag="body", ignore_no_id=False)
    extractors = {".html": html, ".htm": html}
    started = time.perf_counter()
    documents = core.SimpleDirectoryReader(
        input_files=[str(path) for path in files], file_extractor=extractors
    ).load_data()
    nodes = splitter.get_nodes_from_documents(documents)
    index = core.VectorStoreIndex(nodes, embed_model=model)
    index.storage_context.persist(str(folder))
    seconds = time.perf_counter() - started
    return Speed(
        system="LlamaIndex",
        files=len(files),
        pages=len(documents),
        passages=len(nodes),
        megabytes=megabytes(files),
        text_megabytes=sum(len(document.text.encode()) for document in documents) / 1e6,
        seconds=seconds,
    )


def repeated(texts: Sequence[str], folder: Path) -> Repeat:
    files = folder / "files"
    files.mkdir()
    for number, text in enumerate(texts):
        (files / f"{number:05d}.txt").write_text(text + "\n")
    library = Library.open(folder / "library")
    first, again = library.ingest([files]), library.ingest([files])
    assert again.unchanged + len(again.failures) == len(texts), "the second ingest read files again"
    return Repeat(files=len(texts), first_s=first.seconds, again_s=again.seconds)


def megabytes(files: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 1e6


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measured(files: Sequence[Path]) -> list[Speed]:
    default_embedder().embed(["Load all that is loaded late."])
    modules = load_peers(PEERS)
    with tempfile.TemporaryDirectory(prefix="pharos-ingest-") as scratch:
        speeds = [ours(files, Path(scratch) / "library")]
        if modules is not None:
            speeds.append(llama_index(files, Path(scratch) / "peer", modules))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast files become searchable.")
    parser.add_argument("docs", nargs="*", type=Path)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--unchanged", type=int, default=5000, help="0 leaves that part out")
    add_data_argument(parser)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    used = {"hardware": describe(), "versions": versions(("torch", "lancedb", *PEERS))}
    speeds = measured(chosen(arguments.docs, arguments.files)) if arguments.docs else []
    repeat = None
    if arguments.unchanged:
        texts = [text.body for text in squad(arguments.data, "train").texts][: arguments.unchanged]
        with tempfile.TemporaryDirectory(prefix="pharos-repeat-") as folder:
            repeat = repeated(texts, Path(folder))
    if arguments.json:
        result = {"speeds": [asdict(s) for s in speeds], "repeat": repeat and asdict(repeat)}
        print(json.dumps({**used, **result}))
        return
    print(*used.values(), sep="\n")
    print("             files  pages passages  text MB  seconds  pages/s     MB/s  text MB/s")
    print(*(speed.row() for speed in speeds), sep="\n")
    if repeat:
        print(
            f"{repeat.files:,} files: {repeat.first_s:.1f} s at first, {repeat.again_s:.2f} s when "
            f"nothing has changed: {repeat.again_s / repeat.first_s:.2%}"
        )


if __name__ == "__main__":
    main()
