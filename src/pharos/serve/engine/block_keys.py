"""Names for the contents of blocks: equal names, equal keys and values.

What a block holds depends on all the tokens before it and on the weights that read them. Its key is
therefore a hash of the key of the block before it and of its own tokens; the first of a chain is a
hash of the adapter, of its generation, and of the tenant's salt.
"""

from array import array
from collections.abc import Sequence as Seq
from hashlib import blake2b

from pharos.serve.engine.request import Sequence

KEY_BYTES = 16


def extend_keys(sequence: Sequence, block_size: int, num_blocks: int) -> None:
    """Names the first `num_blocks` blocks of a sequence in `sequence.block_keys`."""
    keys = sequence.block_keys
    for index in range(len(keys), num_blocks):
        parent = keys[-1] if keys else _root(sequence)
        keys.append(_key(parent, sequence.tokens[index * block_size : (index + 1) * block_size]))


def _root(sequence: Sequence) -> bytes:
    request = sequence.request
    named = repr((request.adapter, sequence.generation, request.salt))
    return blake2b(named.encode(errors="surrogatepass"), digest_size=KEY_BYTES).digest()


def _key(parent: bytes, tokens: Seq[int]) -> bytes:
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=KEY_BYTES).digest()
