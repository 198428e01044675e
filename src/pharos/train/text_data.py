"""A recipe's texts as token shards, and these as the rows that a run reads.

    sources ─ corpus (parse, clean, deduplicate, filter) ─ tokenizer ─ shards ─ rows ─ mixture

What was made stays in the run's folder, under `data/`, and is used again by a run that resumes. A
source may be token shards already (`pharos corpus build`): then nothing is made.
"""

import json
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from pharos.core.errors import TrainingError
from pharos.data.corpus import NEAR_THRESHOLD, CorpusConfig, CorpusReport, corpus_texts
from pharos.data.mixing import Milestone, Mixture, Schedule
from pharos.data.packing import BestFitRows, ConcatRows
from pharos.data.quality import QualityConfig
from pharos.data.rendered_rows import RenderingReport
from pharos.data.rows import Row, Rows, Stream, row_generator
from pharos.data.sentence_pairs import SentencePairs, SentenceTokens
from pharos.data.shard_index import INDEX, TOKENIZER
from pharos.data.shards import Shards, split
from pharos.data.text_sources import SourceConfig, TextSource
from pharos.data.tokenize_corpus import tokenize_texts
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.train.data_folder import check_there
from pharos.train.data_section import SourceSection, TextData

Say = Callable[[str], None]
TOKENIZER_FILE, LEARNED_TOKENIZER = "tokenizer.json", "tokenizer"
VALIDATION = "validation"
"""What is held out by a path of its own is prepared as a source of this name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a run reads: its stream, the rows it is evaluated on (None: none), and what is said of
    them at the start. `labels` are the names of the classes, where there are any; `report` tells
    how conversations were rendered."""

    stream: Stream
    validation: Rows | None
    summary: str
    labels: tuple[str, ...] | None = None
    report: RenderingReport | None = None


class Texts:
    """The documents of one source after cleaning, kept as JSON lines: they are walked once for the
    tokenizer and once for the tokens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def write(self, texts: Iterable[str]) -> None:
        """The file takes its name once it is whole."""
        part = self.path.with_name(self.path.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        part.replace(self.path)


def learn_tokenizer(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """The folder takes its name once it is whole."""
    part = folder.with_name(folder.name + ".part")
    for left in (part, folder):
        shutil.rmtree(left, ignore_errors=True)
    train_tokenizer(texts, config).save(part)
    part.rename(folder)


class Preparation:
    """Makes the data of a run, in `folder`. What is there already was made by the same settings:
    another recipe's is refused."""

    def __init__(self, data: TextData, folder: Path, *, seed: int, say: Say, workers: int) -> None:
        self.data, self.folder, self.seed = data, folder, seed
        self.say, self.workers = say, max(1, workers)
        self.sources = dict(data.sources)
        if isinstance(data.validation, str):
            first = next(iter(data.sources.values()))
            self.sources[VALIDATION] = replace(first, path=data.validation)

    def tokenizer(self, config: TokenizerConfig) -> Tokenizer:
        """One learned from the texts of all sources, those that will be held out included."""
        folder = self.folder / LEARNED_TOKENIZER
        if not (folder / TOKENIZER_FILE).is_file():
            for name, source in self.data.sources.items():
                require_texts(name, source)
            texts = [self.texts(name) for name in self.data.sources]
            self.say(f"Learning a tokenizer ({config.kind}) from the texts")
            learn_tokenizer(Chain(texts), config, folder)
        return Tokenizer.load(folder)

    def texts(self, name: str) -> Texts:
        source = self.sources[name]
        require_texts(name, source)
        texts = Texts(self.folder / f"{name}.texts.jsonl")
        if not texts.path.is_file():
            check_there(source.path, key_of(name))
            self.say(f"Reading {name}: {source.path}")
            texts.write(read_texts(source, self.data, self.workers, self.say))
        return texts

    def shards(self, name: str, tokenizer: Tokenizer) -> Shards:
        source = self.sources[name]
        if is_shards(Path(source.path)):
            shards = Shards.open(source.path)
            shards.require_tokenizer(tokenizer)
            return shards
        folder = self.folder / name
        if is_shards(folder):
            shards = Shards.open(folder)
            shards.require_tokenizer(tokenizer)
            return shards
        texts = self.texts(name)
        self.say(f"Tokenizing {name}")
        return tokenize_texts(texts, tokenizer, folder, workers=self.workers)


def require_texts(name: str, source: SourceSection) -> None:
    """Raises TrainingError for token shards where texts are wanted: their files would be read as
    documents."""
    if is_shards(Path(source.path)):
        raise TrainingError(
            f"{key_of(name)} is {source.path}, which holds tokens, and texts are needed to train a "
            "tokenizer and for packing sentence_pairs; name the folder that the shards were made "
            f"of, or set tokenizer.load to {Path(source.path) / TOKENIZER} and packing to best_fit "
            "or concat"
        )


def key_of(name: str) -> str:
    """The key of the recipe that tells a source's path."""
    return "data.validation" if name == VALIDATION else f"data.sources.{name}.path"


def read_texts(source: SourceSection, data: TextData, workers: int, say: Say) -> Iterator[str]:
    """The texts of a source that are kept; what was left out is said."""
    config = SourceConfig(text_field=source.text, division=source.division)
    files = TextSource([source.path], config, workers=workers)
    report = CorpusReport()
    yield from corpus_texts(files, corpus_config(data), report, workers=workers)
    for path, reason in files.failures:
        say(f"Left out {path}: {reason}")
    if report.kept < report.read:
        say(f"Kept {report.kept:,} of {report.read:,} texts")
    if not report.kept:
        raise TrainingError(f"{source.path} has no text to train on; look at what it holds")


def corpus_config(data: TextData) -> CorpusConfig:
    return CorpusConfig(
        clean=data.clean,
        exact=data.deduplicate,
        near_threshold=NEAR_THRESHOLD if data.deduplicate else None,
        quality=QualityConfig() if data.filter else None,
    )


class Chain:
    """Several texts one after the other; can be walked again and again."""

    def __init__(self, parts: Iterable[Iterable[str]]) -> None:
        self.parts = list(parts)

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            yield from part


def text_data(
    data: TextData,
    tokenizer: Tokenizer,
    preparation: Preparation,
    *,
    row_length: int,
    packing: str,
    rows_per_step: int,
) -> Data:
    """The stream and the validation rows of a recipe's texts, cut into rows of `row_length`."""
    training: dict[str, Rows] = {}
    held_out: list[Rows] = []
    lines: list[str] = []
    for name in preparation.sources:
        if packing == "sentence_pairs":
            kept, apart = _pairs(preparation, name, tokenizer, row_length)
        else:
            kept, apart = _rows(preparation, name, tokenizer, row_length, packing)
        if name == VALIDATION:
            held_out = [kept]
            continue
        training[name] = kept
        held_out += [apart] if apart is not None else []
        lines.append(f"{name}: {len(kept):,} rows")
    stream = Mixture(training, _schedule(data, rows_per_step), preparation.seed)
    return Data(
        stream=stream,
        validation=Joined(held_out) if held_out else None,
        summary=", ".join(lines),
    )


def _rows(
    preparation: Preparation, name: str, tokenizer: Tokenizer, row_length: int, packing: str
) -> tuple[Rows, Rows | None]:
    shards = preparation.shards(name, tokenizer)
    share = preparation.data.validation
    if isinstance(share, str) or share == 0:
        return packed(shards, row_length, packing, preparation.seed), None
    kept, held_out = split(shards, share, seed=preparation.seed)
    return (
        packed(kept, row_length, packing, preparation.seed),
        packed(held_out, row_length, packing, preparation.seed),
    )


def packed(shards: Shards, row_length: int, packing: str, seed: int) -> Rows:
    if packing == "concat":
        return ConcatRows(shards, row_length, seed=seed)
    return BestFitRows(shards, row_length)


def _pairs(
    preparation: Preparation, name: str, tokenizer: Tokenizer, row_length: int
) -> tuple[Rows, Rows | None]:
    texts = list(preparation.texts(name))
    share = preparation.data.validation
    count = 0 if isinstance(share, str) else round(share * len(texts))
    held_out = set(row_generator("split", preparation.seed).permutation(len(texts))[:count])
    kept = [text for i, text in enumerate(texts) if i not in held_out]
    validation = [text for i, text in enumerate(texts) if i in held_out]
    return (
        _pair_rows(kept, tokenizer, row_length, preparation.seed),
        _pair_rows(validation, tokenizer, row_length, preparation.seed) if validation else None,
    )


def _pair_rows(texts: Iterable[str], tokenizer: Tokenizer, row_length: int, seed: int) -> Rows:
    return SentencePairs(SentenceTokens.of_texts(texts, tokenizer), row_length, seed=seed)


class Joined:
    """The rows of several sets, one set after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def row(self, index: int, epoch: int) -> Row:
        part = bisect_right(self.ends, index)
        before = self.ends[part - 1] if part else 0
        return self.parts[part].row(index - before, epoch)


def _schedule(data: TextData, rows_per_step: int) -> Schedule:
    """The recipe's milestones, which count steps, by rows."""
    weights = {name: source.weight for name, source in data.sources.items()}
    milestones = [Milestone(at=0, weights=weights)]
    for section in data.milestones:
        at = section.step * rows_per_step
        milestones = [one for one in milestones if one.at != at]
        milestones.append(
            Milestone(at=at, weights={**dict.fromkeys(weights, 0.0), **section.weights})
        )
    return Schedule(milestones, data.change)


def is_shards(path: Path) -> bool:
    return (path / INDEX).is_file()
