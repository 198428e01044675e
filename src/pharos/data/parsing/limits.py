"""How much of a document is too much."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseLimits:
    """Above any of these a document is refused, with the number and the limit in the message.

    max_bytes: size of the file.
    max_characters: length of the text that it holds.
    max_unpacked_bytes, max_members, max_ratio: for archives (DOCX, PPTX, XLSX, EPUB) and gzipped
        pages: the size after unpacking, the number of files within, and how many times larger
        than its packed form one may become (looked at from a megabyte on).
    """

    max_bytes: int = 200_000_000
    max_characters: int = 50_000_000
    max_unpacked_bytes: int = 500_000_000
    max_members: int = 20_000
    max_ratio: int = 200

    def __post_init__(self) -> None:
        for limit in fields(self):
            if (value := getattr(self, limit.name)) < 1:
                raise ValueError(f"{limit.name} is {value}; it must be at least 1")
