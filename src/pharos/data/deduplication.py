"""Texts that a library holds already: exactly (a hash) or nearly (MinHash, Broder 1997).

Two texts are near-duplicates if the sets of their five-word shingles have a Jaccard similarity of
at least a threshold. A signature holds, for each of 128 random orders of all shingles, the smallest
shingle of the text; the share of equal places in two signatures estimates the similarity with a
standard error of at most 0.044 (0.019 at 0.95).

A signature is looked for by comparing a few of its places with those of all texts, then all places
of the texts that may be near. That is linear, and still about 2 ms among 100,000 texts, where
embedding one takes a hundred times as long. Locality-sensitive hashing finds it in microseconds,
but took ten times the memory, and 20 times as long among 3,000 texts from one template.

The default threshold is high, because what is dropped cannot be cited. Of texts of 20 paragraphs
from the Python reference, edited 300 times each way, this share was found to be a near-duplicate:

    threshold                          0.90   0.95   0.97
    one word changed                  1.000  1.000  0.970
    a version and copyright line      1.000  1.000  0.970
    3 words hyphenated otherwise      1.000  0.933  0.557
    5 words changed                   0.997  0.603  0.160
    a footer on each of 5 pages       0.927  0.217  0.027
    one paragraph of 20 replaced      0.533  0.103  0.020

The last are editions of a manual, which should both stay; the first are copies. No threshold tells
a changed sentence in a long book, so whoever keeps such editions sets it to 1.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

NUM_PERM = 128
NUM_SIEVE = 16
"""The places that are compared with all texts."""
SHINGLE_WORDS = 5
MIN_WORDS = 50
DEFAULT_THRESHOLD = 0.97

_WORD = re.compile(r"\w+")


def content_hash(text: str) -> str:
    """SHA-256 of the text in NFC with white space runs as one blank: equal texts laid out alike."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()


def signature(text: str) -> bytes:
    """128 32-bit numbers, little-endian; empty for a text of fewer than 50 words, of which only
    exact duplicates can be told. Stable across processes and versions of Python."""
    from rensa import RMinHash  # a machine that only trains does without

    words = _WORD.findall(text.casefold())
    if len(words) < MIN_WORDS:
        return b""
    minhash = RMinHash(num_perm=NUM_PERM, seed=1)
    minhash.update(set(_shingles(words)))
    return np.array(minhash.digest(), dtype="<u4").tobytes()


def similarity(a: bytes, b: bytes) -> float:
    """The estimated Jaccard similarity of two texts, from their signatures."""
    return float(np.mean(_places(a) == _places(b)))


class NearDuplicates:
    """An index of signatures that finds the most similar one, if it is similar enough."""

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        if not 0.5 <= threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}; it is a similarity from 0.5 to 1")
        self._threshold = threshold
        # A text at the threshold fails this about once in 10,000 times.
        error = math.sqrt(NUM_SIEVE * threshold * (1 - threshold))
        self._min_sieved = math.floor(NUM_SIEVE * threshold - 4 * error)
        self._ids: list[str] = []
        self._places_PN = np.empty((NUM_PERM, 1024), np.uint32)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, document_id: str, signature: bytes) -> None:
        """An empty signature is not indexed: nothing is near to it."""
        if not signature:
            return
        if len(self) == self._places_PN.shape[1]:
            self._places_PN = np.hstack([self._places_PN, np.empty_like(self._places_PN)])
        self._places_PN[:, len(self)] = _places(signature)
        self._ids.append(document_id)

    def find(self, signature: bytes) -> tuple[str, float] | None:
        """The most similar text and its similarity; of equals, the one added first."""
        if not signature or not self._ids:
            return None
        places, known_PN = _places(signature)[:, None], self._places_PN[:, : len(self)]
        sieved = np.count_nonzero(known_PN[:NUM_SIEVE] == places[:NUM_SIEVE], axis=0)
        near = np.flatnonzero(sieved >= self._min_sieved)
        if not len(near):
            return None
        similarities = np.mean(known_PN[:, near] == places, axis=0)
        best = int(similarities.argmax())
        if similarities[best] < self._threshold:
            return None
        return self._ids[near[best]], float(similarities[best])


def _shingles(words: list[str]) -> Iterator[str]:
    for first in range(len(words) - SHINGLE_WORDS + 1):
        yield " ".join(words[first : first + SHINGLE_WORDS])


def _places(signature: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(signature, dtype="<u4")
