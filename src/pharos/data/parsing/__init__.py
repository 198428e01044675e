"""Files of many formats to one kind of document: `parse(path, source) -> Document`.

What a parser cannot read raises `DocumentError` with the reason; nothing is fetched, nothing
recurses with the depth of its input, and `ParseLimits` bounds what may be read and unpacked.
"""

from pharos.data.parsing.documents import parse, parse_bytes
from pharos.data.parsing.formats import SUFFIXES
from pharos.data.parsing.limits import ParseLimits

__all__ = ["SUFFIXES", "ParseLimits", "parse", "parse_bytes"]
