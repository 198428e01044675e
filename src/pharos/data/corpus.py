"""From raw texts to those worth training on.

    texts ─ clean ─ exact duplicates ─ near duplicates ─ quality ─ texts

What needs only the text itself (cleaning, signatures, quality) is done in workers, a batch at a
time; what needs the texts before it (duplicates) here, in their order. So the texts that are kept
do not depend on the number of workers. Of duplicates the first is kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from pharos.core import CorpusError
from pharos.data.cleaning import clean_text, squeeze_blank_lines
from pharos.data.deduplication import NearDuplicates, content_hash, signature
from pharos.data.quality import QualityConfig, rejection
from pharos.data.tokenize_corpus import LIMITS, batches
from pharos.data.workers import run_isolated

NEAR_THRESHOLD = 0.8
"""Lower than a library's, which must not lose an edition; a model learns little from a second."""
HASH_CHARACTERS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """What is done to texts. `near_threshold` is the similarity (0.5 to 1) from which two texts
    count as one, None for no such search; `quality=None` for no rules."""

    clean: bool = True
    exact: bool = True
    near_threshold: float | None = NEAR_THRESHOLD
    quality: QualityConfig | None = field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        if self.near_threshold is not None:
            NearDuplicates(self.near_threshold)  # which knows its range

    @classmethod
    def off(cls) -> "CorpusConfig":
        """Every text that is not blank, as it is."""
        return cls(clean=False, exact=False, near_threshold=None, quality=None)


@dataclass(slots=True)
class CorpusReport:
    """How many texts each stage took out of those `read`; `low_quality` is by rule. Characters are
    those read, and those of the texts kept."""

    read: int = 0
    empty: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    low_quality: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    characters_read: int = 0
    characters_kept: int = 0


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a text by itself; `rule` is the one that it breaks."""

    num_read: int
    text: str
    hash: str
    signature: bytes
    rule: str | None


def corpus_texts(
    texts: Iterable[str], config: CorpusConfig, report: CorpusReport, *, workers: int = 1
) -> Iterator[str]:
    """The texts that are kept, cleaned; `report` is filled as they are asked for."""
    seen = set[str]()
    near = NearDuplicates(config.near_threshold or 1.0)
    for found in _examined(texts, config, workers):
        report.read += 1
        report.characters_read += found.num_read
        if not found.text or found.text.isspace():
            report.empty += 1
        elif found.hash and found.hash in seen:
            report.exact_duplicates += 1
        elif found.signature and near.find(found.signature):
            report.near_duplicates += 1
        else:
            seen.add(found.hash)
            near.add("", found.signature)
            if found.rule:
                times = report.low_quality.get(found.rule, 0)
                report.low_quality[found.rule] = times + 1
                continue
            report.kept += 1
            report.characters_kept += len(found.text)
            yield found.text


def _examined(texts: Iterable[str], config: CorpusConfig, workers: int) -> Iterator[Examined]:
    function = partial(examine, config)
    if workers == 1:
        for batch in batches(texts):
            yield from function(batch)
        return
    outcomes = run_isolated(function, batches(texts), workers=workers, limits=LIMITS)
    with closing(outcomes):  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.value is None:
                raise CorpusError(f"a batch of texts could not be cleaned: {outcome.error}")
            yield from outcome.value


def examine(config: CorpusConfig, texts: Sequence[str]) -> list[Examined]:
    """What a worker does."""
    return [_examine(config, text) for text in texts]


def _examine(config: CorpusConfig, raw: str) -> Examined:
    text = squeeze_blank_lines(clean_text(raw)) if config.clean else _encodable(raw)
    found = rejection(text, config.quality) if config.quality else None
    return Examined(
        num_read=len(raw),
        text=text,
        hash=content_hash(text)[:HASH_CHARACTERS] if config.exact else "",
        signature=signature(text) if config.near_threshold else b"",
        rule=found.rule if found else None,
    )


def _encodable(text: str) -> str:
    """Without halves of surrogate pairs, which no file in UTF-8 can hold and JSON can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
