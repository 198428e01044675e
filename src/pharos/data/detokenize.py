"""Ids to text one by one, as a model generates them.

A token is not a text. The bytes of one emoji may be spread over four tokens; a token's text may
depend on the tokens before it (`▁the` is "the" at the beginning and " the" later on). So a stream
gives out what no later token can change, and holds back the rest:

- byte-level BPE (GPT-2, Llama 3, Qwen): a token is a run of bytes, and the bytes that end in the
  middle of a character are held back;
- all others: the new tokens are decoded behind the last one before them, whose own text is then
  taken off. Where bytes are tokens of their own (`<0xE2>`: Llama 2, T5 with byte fallback), a run
  of them is held back until it ends: the decoder reads it as a whole, and as nothing but `�` if one
  byte does not fit.

A decoder that may take back what it said (CTC's, which drops repetitions) gets no stream: all of
its text comes at the end.

The pieces of a stream add up to `Tokenizer.decode` of all its ids.
"""

import codecs
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Protocol

from pharos.data.tokenizer import Tokenizer

_BY_TOKEN = ("BPEDecoder", "ByteFallback", "Fuse", "Metaspace", "Replace", "WordPiece")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class StreamDecoder:
    """`push` an id for the text that is now certain (often one word, sometimes nothing), and
    `flush` at the end for what is left."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._tokenizer = tokenizer
        self._stream = _stream(tokenizer)

    def push(self, id_: int) -> str:
        token = None if id_ in self._skipped else self._tokenizer.token(id_)
        return "" if token is None else self._stream.push(id_, token)

    def flush(self) -> str:
        """What was held back; a character of which bytes are missing is `�`."""
        return self._stream.flush()


class _Stream(Protocol):
    def push(self, id_: int, token: str) -> str: ...

    def flush(self) -> str: ...


class _ByteStream:
    """Byte-level BPE: the bytes go through UTF-8's own incremental decoder."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id_: int, token: str) -> str:
        return self._decoder.decode(token_bytes(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowStream:
    """Decoders that look at one token at a time, but for the first token and for runs of byte
    tokens: `_held` is decoded behind `_before`, the last token given out."""

    def __init__(self, tokenizer: Tokenizer, *, has_byte_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._has_byte_tokens = has_byte_tokens
        self._before: int | None = None
        self._held: list[int] = []

    def push(self, id_: int, token: str) -> str:
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(token):
            self._held.append(id_)
            return ""
        text = self.flush()  # a run of bytes has ended
        self._held.append(id_)
        return text + self.flush()

    def flush(self) -> str:
        if not self._held:
            return ""
        shown, before = "", list[int]()
        if self._before is not None:
            shown, before = self._tokenizer.text_of(self._before), [self._before]
        text = self._tokenizer.decode(before + self._held, skip_special=False)
        assert text.startswith(shown), f"{text!r} takes back {shown!r}"
        self._before, self._held = self._held[-1], []
        return text[len(shown) :]


class _WholeStream:
    """Any other decoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def push(self, id_: int, token: str) -> str:
        self._held.append(id_)
        return ""

    def flush(self) -> str:
        text = self._tokenizer.decode(self._held, skip_special=False)
        self._held = []
        return text


@lru_cache(maxsize=1 << 17)
def token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for: `Ġhé` is b" h\\xe9". One that
    was added as it is (`<|end|>`, "two words") stands for its text."""
    table = _byte_alphabet()
    if all(character in table for character in token):
        return bytes(map(table.__getitem__, token))
    return token.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's way to write any byte as a character that shows: those that do stand for themselves,
    the others for the characters from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


def _stream(tokenizer: Tokenizer) -> _Stream:
    """The stream that fits the tokenizer's decoder, a chain of parts."""
    parts = tokenizer.decoder_parts
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return _ByteStream()
    after_fuse = kinds[kinds.index("Fuse") + 1 :] if "Fuse" in kinds else []
    if all(map(_looks_at_one_token, parts)) and after_fuse in ([], ["Strip"]):
        return _WindowStream(tokenizer, has_byte_tokens="ByteFallback" in kinds)
    return _WholeStream(tokenizer)


def _looks_at_one_token(part: Mapping[str, Any]) -> bool:
    """Or, a Strip, at the first character of the text."""
    if part["type"] == "Strip":
        return bool(part["start"] <= 1 and part["stop"] == 0)
    return part["type"] in _BY_TOKEN
