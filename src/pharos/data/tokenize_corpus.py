"""Texts to token shards, on several cores, in one order, resumable.

The texts are cut into batches, batches go to workers (`data.workers`: processes, since the threads
of the `tokenizers` library scale worse and cannot be counted per call; `benchmarks/corpus.py`
measures both), and what comes back is written in the order of the texts. So the shards do not
depend on the number of workers.

A job that was killed goes on: it walks the texts once more, holds their digest against that of the
texts that complete shards were made of, and tokenizes what follows.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial, reduce
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from pharos.core import CorpusError
from pharos.data.shard_writer import TOKENS_PER_SHARD, ShardWriter, chained
from pharos.data.shards import Shards
from pharos.data.tokenizer import Tokenizer
from pharos.data.workers import WorkerLimits, run_isolated

BATCH_CHARACTERS = 1 << 18
LIMITS = WorkerLimits(seconds=3600, memory_mb=16 << 10)
"""Against a worker that hangs, not against texts: those were bounded when they were read."""

Ids = NDArray[np.uint32]
OnTokens = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundaries:
    """The tokens that are put before and after each document. `before` and `after` are ids; a
    tokenizer's own template (`<s> … </s>`) is never applied besides."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, *, bos: bool = False, eos: bool | None = None
    ) -> "Boundaries":
        """`eos=None` takes one where the tokenizer has one. Raises CorpusError where one is asked
        for that it has not."""
        after = eos if eos is not None else tokenizer.eos_id is not None
        return cls(
            before=(_required(tokenizer.bos_id, "bos"),) if bos else (),
            after=(_required(tokenizer.eos_id, "eos"),) if after else (),
        )


def tokenize_texts(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    boundaries: Boundaries | None = None,
    workers: int = 1,
    tokens_per_shard: int = TOKENS_PER_SHARD,
    on_tokens: OnTokens | None = None,
) -> Shards:
    """Write each text as a document of token shards in the folder `out`, behind it an EOS if the
    tokenizer has one, or what `boundaries` say. Where an earlier call was killed, this one goes on,
    if it is given the same texts. `on_tokens` is told now and then how many documents and tokens
    were written.

    Raises CorpusError where `out` holds finished shards, where the texts are not those of the call
    that is gone on with, and where there is no text.
    """
    chosen = boundaries or Boundaries.of(tokenizer)
    settings = {"before": list(chosen.before), "after": list(chosen.after)}
    with ShardWriter(
        Path(out), tokenizer, settings=settings, tokens_per_shard=tokens_per_shard
    ) as writer:
        index = writer.index
        done, num_tokens = index.num_documents, index.num_tokens
        remaining = skipped(iter(texts), done, index.texts, writer.folder)
        for digests, batch in _encoded(remaining, tokenizer, chosen, workers):
            for digest, ids in zip(digests, batch, strict=True):
                writer.write(ids, digest)
                num_tokens += len(ids)
            done += len(batch)
            if on_tokens:
                on_tokens(done, num_tokens)
        return writer.finish()


def skipped(texts: Iterator[str], count: int, digest: str, folder: Path) -> Iterator[str]:
    """`texts` behind the first `count`, which must be those that `digest` is of."""
    found = reduce(chained, map(text_digest, islice(texts, count)), "")
    if found != digest:
        raise CorpusError(
            f"{folder} holds {count:,} documents of an earlier run, and the texts now begin with "
            "others: give the same texts as then, or remove the folder"
        )
    return texts


def text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


Batch = tuple[list[str], list[Ids]]


def _encoded(
    texts: Iterator[str], tokenizer: Tokenizer, boundaries: Boundaries, workers: int
) -> Iterator[Batch]:
    encode = partial(encode_batch, tokenizer.backend, boundaries)
    if workers == 1:
        yield from map(encode, batches(texts))
        return
    outcomes = run_isolated(encode, batches(texts), workers=workers, limits=LIMITS)
    with closing(outcomes):  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.value is None:
                raise CorpusError(f"a batch of texts could not be tokenized: {outcome.error}")
            yield outcome.value


def encode_batch(backend: Backend, boundaries: Boundaries, texts: Sequence[str]) -> Batch:
    """What a worker does: the digest and the ids of each text."""
    encoded = Tokenizer(backend).encode_batch(texts, add_special_tokens=False)
    ids = [np.array([*boundaries.before, *e, *boundaries.after], np.uint32) for e in encoded]
    return [text_digest(text) for text in texts], ids


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of about `BATCH_CHARACTERS`, or one alone that is longer."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _required(id_: int | None, role: str) -> int:
    if id_ is None:
        raise CorpusError(
            f"this tokenizer has no {role} token to mark documents with; name one as {role}_token "
            f"in its tokenizer_config.json, or ask for no {role}"
        )
    return id_
