"""Rows for BERT's next sentence prediction (Devlin et al. 2018, arXiv:1810.04805): two stretches of
sentences, A and B. In half of the rows B follows A in its document, in the others it comes from
another document.

Documents are cut into runs of sentences that fit into a row; each sentence is in exactly one run.
A row is a run, divided between two of its sentences: at another place each epoch, and with another
partner. A partner from elsewhere has as many sentences as the B that really follows, and what is
too long is cut in the same way, so that lengths do not tell which is which.

Other than in the original code: what follows A when B is from elsewhere is not used again in that
epoch (it is, in others), and there are no rows shortened on purpose; a document's last run is
short anyway.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import TrainingError
from pharos.data.rows import Row, row_generator
from pharos.data.sentences import split_sentences
from pharos.data.token_source import TokenArrays, TokenSource
from pharos.data.tokenizer import Tokenizer

Ids = NDArray[np.int32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SentenceTokens:
    """Texts as sentences: `sentences` has a sentence where others have a document, and document d
    is the sentences `first[d]` to `first[d + 1]`. Each has a token at least."""

    sentences: TokenSource
    first: Int64s

    @classmethod
    def of_texts(cls, texts: Iterable[str], tokenizer: Tokenizer) -> "SentenceTokens":
        """Without special tokens."""
        tokens, lengths, first = array("i"), array("q"), array("q", [0])
        for text in texts:
            spans = split_sentences(text)
            parts = [text[start:end] for start, end in spans]
            encoded = tokenizer.encode_batch(parts, add_special_tokens=False)
            for ids in filter(None, encoded):
                tokens.extend(ids)
                lengths.append(len(ids))
            first.append(len(lengths))
        return cls(TokenArrays(np.array(tokens), np.array(lengths)), np.array(first))


class SentencePairs:
    """`{"ids_a", "ids_b", "is_next"}`, of at most `max_tokens` together; special tokens come on
    top of that. Documents of a single sentence give no A, only a B to others."""

    def __init__(self, tokens: SentenceTokens, max_tokens: int, *, seed: int) -> None:
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; a pair needs at least 2")
        self.tokens = tokens
        self.max_tokens = max_tokens
        self.seed = seed
        self._documents = np.flatnonzero(np.diff(tokens.first))
        self._runs = _runs(tokens, max_tokens)
        if len(self._documents) < 2 or not len(self._runs):
            raise TrainingError(
                f"sentence pairs need two documents, one of two sentences at least; there are "
                f"{len(self._documents)} documents with {tokens.sentences.num_documents} "
                "sentences in all; add documents, or train without next sentence prediction"
            )

    def __len__(self) -> int:
        return len(self._runs)

    def row(self, index: int, epoch: int) -> Row:
        generator = row_generator("sentence_pairs", self.seed, epoch, index)
        document, start, stop = self._runs[index].tolist()
        middle = int(generator.integers(start + 1, stop))
        is_next = bool(generator.integers(2))
        b = (middle, stop) if is_next else self._elsewhere(document, stop - middle, generator)
        ids_a, ids_b = self._trimmed(self._ids(start, middle), self._ids(*b))
        return {"ids_a": ids_a, "ids_b": ids_b, "is_next": np.array(is_next)}

    def _elsewhere(
        self, document: int, num_sentences: int, generator: np.random.Generator
    ) -> tuple[int, int]:
        """That many sentences of another document, or all that it has."""
        place = int(generator.integers(len(self._documents) - 1))
        place += place >= int(np.searchsorted(self._documents, document))
        first, last = self.tokens.first[self._documents[place] :][:2].tolist()
        latest = max(first, last - num_sentences)
        start = int(generator.integers(first, latest + 1))
        return start, min(start + num_sentences, last)

    def _ids(self, start: int, stop: int) -> Ids:
        parts = [self.tokens.sentences.document(i) for i in range(start, stop)]
        return np.concatenate(parts).astype(np.int32)

    def _trimmed(self, ids_a: Ids, ids_b: Ids) -> tuple[Ids, Ids]:
        """The longer one is cut first; A at its beginning and B at its end, so that they still
        meet."""
        half = self.max_tokens // 2
        keep_b = max(self.max_tokens - len(ids_a), half)
        ids_b = ids_b[:keep_b]
        keep_a = self.max_tokens - len(ids_b)
        return ids_a[-keep_a:], ids_b


def _runs(tokens: SentenceTokens, max_tokens: int) -> Int64s:
    """`[number, 3]`: a document and its sentences from, to: as many as have `max_tokens` together,
    but two at least; a sentence that would be left alone joins the run before it."""
    ends = np.concatenate([[0], np.cumsum(tokens.sentences.lengths, dtype=np.int64)])
    runs: list[tuple[int, int, int]] = []
    bounds = tokens.first.tolist()
    for document, (start, last) in enumerate(pairwise(bounds)):
        while last - start >= 2:
            fits = int(np.searchsorted(ends, ends[start] + max_tokens, side="right")) - 1
            stop = min(max(fits, start + 2), last)
            stop = last if last - stop == 1 else stop
            runs.append((document, start, stop))
            start = stop
    return np.array(runs, dtype=np.int64).reshape(-1, 3)
