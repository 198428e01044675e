"""Bytes to text: which character set, and whether it is text at all."""

import codecs
import re

from pharos.core import DocumentError

HEAD_BYTES = 65_536

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Everything below a blank that text is not made of: \b \t \n \v \f \r and escape are.
_ODD_CONTROLS = bytes(set(range(0x20)) - {0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1A, 0x1B} | {0x7F})
_MAX_ODD_SHARE = 0.01
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)


def check_is_text(head: bytes) -> None:
    """Raises DocumentError unless the first bytes of a file look like text."""
    if _unicode_encoding(head) is not None:
        return
    if (nul := head.find(0)) >= 0:
        raise DocumentError(
            f"binary: a NUL byte at {nul:,}, and the first bytes are of no format that is read here"
        )
    odd = len(head) - len(head.translate(None, _ODD_CONTROLS))
    if odd > _MAX_ODD_SHARE * len(head):
        raise DocumentError(
            f"binary: {odd:,} of the first {len(head):,} bytes are control characters, "
            f"more than {_MAX_ODD_SHARE:.0%}"
        )


def decode(data: bytes, declared: str | None = None) -> str:
    """Text from bytes by the first that fits: its byte-order mark, UTF-16 without one, UTF-8,
    the encoding that the document declares, UTF-8 with a few broken characters, Windows-1252.

    UTF-8 goes before the declaration because it hardly ever fits by accident, and declarations
    are often wrong.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    if (wide := _unicode_encoding(data[:HEAD_BYTES])) is not None:
        return data.decode(wide, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if (text := _decode_declared(data, declared)) is not None:
        return text
    return _decode_legacy(data)


def _decode_declared(data: bytes, declared: str | None) -> str | None:
    """The text in the declared encoding, if Python knows that encoding and it fits."""
    try:
        codec = codecs.lookup((declared or "").strip("\"' \t"))
        # The web reads Latin-1 as its superset Windows-1252, and so do we (_decode_legacy).
        is_text = codec._is_text_encoding and codec.name not in ("utf-8", "ascii", "iso8859-1")
        return data.decode(codec.name) if is_text else None
    except (LookupError, ValueError):
        return None


def _decode_legacy(data: bytes) -> str:
    accented = sum(1 for _ in _MULTIBYTE.finditer(data))
    broken = sum(1 for _ in re.finditer(rb"[\x80-\xff]", _MULTIBYTE.sub(b"", data)))
    if accented > 4 * broken:
        return data.decode("utf-8", errors="replace")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing in Windows-1252
        return data.decode("latin-1")


def _unicode_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 by its mark or, without one, by the zero half of most Western characters."""
    for mark, encoding in _MARKS[1:]:
        if head.startswith(mark):
            return encoding
    sample = head[: len(head) // 2 * 2][:4096]
    if len(sample) < 8:
        return None
    for encoding, zeros, letters in (
        ("utf-16-le", sample[1::2], sample[0::2]),
        ("utf-16-be", sample[0::2], sample[1::2]),
    ):
        if zeros.count(0) > 0.7 * len(zeros) and letters.count(0) == 0:
            return encoding
    return None
