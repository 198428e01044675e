"""Zip archives and gzipped files, unpacked within limits whatever their headers say."""

import io
import zipfile
import zlib
from types import TracebackType

from pharos.core import DocumentError
from pharos.data.parsing.limits import ParseLimits

_CHUNK = 1 << 16
_RATIO_FROM = 1_000_000


class Archive:
    """A zip archive that is checked before and while it is unpacked.

    Refused are archives with too many members, and those that declare or turn out to be too
    large, in all or compared to what is packed. A member that comes out longer than it declares
    is refused as well, so the declared sizes can be trusted.
    """

    def __init__(self, data: bytes, limits: ParseLimits) -> None:
        self._limits = limits
        self._unpacked = 0
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            members = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise DocumentError(f"is a damaged or truncated archive: {error}") from error
        if len(members) > limits.max_members:
            raise DocumentError(
                f"holds {len(members):,} files, above the limit of {limits.max_members:,} "
                "(max_members)"
            )
        _check_unpacked(sum(m.file_size for m in members), len(data), limits)
        self._members = {member.filename: member for member in members}
        self._packed_bytes = len(data)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises DocumentError if it is missing, damaged, encrypted or large."""
        member = self._members.get(name)
        if member is None:
            raise DocumentError(f"is damaged: the archive lacks {name!r}")
        if member.flag_bits & 1:
            raise DocumentError(f"is encrypted: {name!r} in the archive needs a password")
        chunks: list[bytes] = []
        try:
            with self._zip.open(member) as stream:
                while chunk := stream.read(_CHUNK):
                    chunks.append(chunk)
                    self._unpacked += len(chunk)
                    _check_unpacked(self._unpacked, self._packed_bytes, self._limits)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise DocumentError(f"is damaged: {name!r} in the archive: {error}") from error
        return b"".join(chunks)


def gunzip(data: bytes, limits: ParseLimits) -> bytes:
    """The content of a gzipped file, which may have several parts."""
    chunks: list[bytes] = []
    total = 0
    rest = data
    while rest:
        stream = zlib.decompressobj(wbits=31)
        while not stream.eof:
            try:
                chunk = stream.decompress(rest, _CHUNK)
            except zlib.error as error:
                raise DocumentError(f"is a damaged gzip file: {error}") from error
            rest = stream.unconsumed_tail
            if not chunk and not rest and not stream.eof:
                raise DocumentError("is a truncated gzip file")
            chunks.append(chunk)
            total += len(chunk)
            _check_unpacked(total, len(data), limits)
        rest = stream.unused_data.lstrip(b"\0")
    return b"".join(chunks)


def _check_unpacked(size: int, packed: int, limits: ParseLimits) -> None:
    if size > limits.max_unpacked_bytes:
        raise DocumentError(
            f"unpacks to {size:,} bytes or more, above the limit of "
            f"{limits.max_unpacked_bytes:,} (max_unpacked_bytes)"
        )
    if size > _RATIO_FROM and size > packed * limits.max_ratio:
        raise DocumentError(
            f"unpacks to {size / packed:,.0f} times its size or more, above the limit of "
            f"{limits.max_ratio} (max_ratio): a decompression bomb?"
        )
