"""A file inside of a shard, used in place of a path."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kerakit.errors import ImageError


class _Files(Protocol):
    """The shards."""

    @property
    def name(self) -> str:
        """Path or address."""

    def read(self, member: Member, is_repeated: bool = False) -> bytes:
        """Return the bytes of a member; with ``is_repeated``, by a request of its own."""


@dataclass(frozen=True)
class Member:
    """A file inside of a shard: it stands where otherwise the path of an image or a mask is.

    Attributes:
        files: the shards.
        name: path of the file when it was packed.
        shard: name of the shard.
        offset: first byte in the shard.
        size: number of bytes.
        crc32: CRC-32 of the bytes.
        image_size: (width, height) of the upright image; (0, 0) if unknown.

    >>> from types import SimpleNamespace
    >>> files = SimpleNamespace(name="s3://photos", read=lambda member, **_: b"abc")
    >>> member = Member(files, "cat/1.jpg", "shard-000000.tar", 512, 3, zlib.crc32(b"abc"))
    >>> str(member), member.read_bytes()
    ('s3://photos/shard-000000.tar (cat/1.jpg)', b'abc')
    """

    files: _Files = field(repr=False)
    name: str
    shard: str
    offset: int
    size: int
    crc32: int
    image_size: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"{self.files.name}/{self.shard} ({self.name})"

    @property
    def suffix(self) -> str:
        """File extension."""
        return Path(self.name).suffix

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            ImageError: it cannot be read, or has another CRC-32.
        """
        for attempt in range(2):
            try:
                data = self.files.read(self, is_repeated=attempt > 0)
            except OSError as error:
                raise ImageError(self, error.strerror or str(error)) from None
            if len(data) == self.size and zlib.crc32(data) == self.crc32:
                return data
            if attempt and len(data) > self.size:
                raise ImageError(self, "the server ignores the range of bytes of a request")
            if attempt and len(data) < self.size:
                raise ImageError(self, "the shard is truncated")
        raise ImageError(self, "the shard is damaged (its CRC-32 differs)")


def file_identity(place: Path | Member) -> tuple[Any, ...]:
    """Return values that identify a file and its content; () if it does not exist."""
    if isinstance(place, Member):
        return f"{place.files.name}/{place.shard}", place.offset, place.size, place.crc32
    try:
        status = place.stat()
    except OSError:
        return ()
    state = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return str(place.absolute()), *state


def openable(place: Path | str | Member) -> Any:
    """Return what ``PIL.Image.open`` takes: a path, or the bytes of a member as a file."""
    return io.BytesIO(place.read_bytes()) if isinstance(place, Member) else place
