"""Texts that a library holds already: exactly (a hash) or nearly (MinHash, Broder 1997).

Two texts are near-duplicates if the sets of their five-word shingles have a Jaccard similarity of
at least a threshold. A signature holds, for each of 128 random orders of all shingles, the smallest
shingle of the text; the share of equal places in two signatures estimates the similarity with a
standard error of at most 0.044 (0.019 at 0.95). Signatures are found by locality-sensitive hashing:
16 bands of 8 places, and two texts are compared if any band is equal, which misses a pair of
similarity 0.9 once in 8,000 times.

The default threshold is high, because what is dropped cannot be cited: of two editions of a manual
of 20 paragraphs that differ in one, the similarity is 0.90, and both must stay.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

NUM_PERM = 128
NUM_BANDS = 16
SHINGLE_WORDS = 5
MIN_WORDS = 50
DEFAULT_THRESHOLD = 0.95

_WORD = re.compile(r"\w+")


def content_hash(text: str) -> str:
    """SHA-256 of the text in NFC with white space runs as one blank: equal texts laid out alike."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()


def signature(text: str) -> bytes:
    """128 32-bit numbers, little-endian; empty for a text of fewer than 50 words, of which only
    exact duplicates can be told. Stable across processes and versions of Python."""
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
        self._ids: list[str] = []
        self._signatures: list[bytes] = []
        self._bands: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, document_id: str, signature: bytes) -> None:
        """An empty signature is not indexed: nothing is near to it."""
        if not signature:
            return
        for band in _bands(signature):
            self._bands[band].append(len(self._ids))
        self._ids.append(document_id)
        self._signatures.append(signature)

    def find(self, signature: bytes) -> tuple[str, float] | None:
        """The most similar text and its similarity; of equals, the one added first."""
        rows = {row for band in _bands(signature) for row in self._bands.get(band, ())}
        scored = [(similarity(signature, self._signatures[row]), -row) for row in rows]
        best, row = max(scored, default=(0.0, 0))
        return (self._ids[-row], best) if best >= self._threshold else None


def _shingles(words: list[str]) -> Iterator[str]:
    for first in range(len(words) - SHINGLE_WORDS + 1):
        yield " ".join(words[first : first + SHINGLE_WORDS])


def _places(signature: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(signature, dtype="<u4")


def _bands(signature: bytes) -> Iterator[tuple[int, bytes]]:
    width = len(signature) // NUM_BANDS
    for band in range(NUM_BANDS if signature else 0):
        yield band, signature[band * width : (band + 1) * width]
