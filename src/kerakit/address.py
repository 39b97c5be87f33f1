"""Addresses of remote folders, such as ``s3://bucket/photos``, where a path may stand."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", re.DOTALL)


def as_url(place: Path | str) -> str | None:
    """Return the address of a remote folder; None for a path.

    A ``Path`` of an address has one slash: the other is restored.

    >>> as_url(Path("s3://bucket/photos")), as_url("photos")
    ('s3://bucket/photos', None)
    """
    found = _URL.fullmatch(str(place))
    if found is None or found[1].casefold() in ("file", "local"):
        return None
    return f"{found[1].lower()}://{found[2].rstrip('/')}"


def as_path(place: Path | str) -> Path:
    """Return a local path, also that of ``file:///photos``.

    >>> as_path(Path("file:///photos")).as_posix(), as_path("photos").as_posix()
    ('/photos', 'photos')
    """
    found = _URL.fullmatch(str(place))
    return Path(f"/{found[2]}") if found is not None else Path(place)


class Address(type(Path())):  # type: ignore[misc] # of this system
    """An address that stands where a path may, with both slashes in messages.

    >>> str(Address("s3://bucket/photos")), str(Path("s3://bucket/photos"))
    ('s3://bucket/photos', 's3:/bucket/photos')
    """

    def __str__(self) -> str:
        text = super().__str__()
        return as_url(text) or text


def as_place(place: Path | str) -> Path:
    """Return a path, or an ``Address``.

    >>> as_place("s3://bucket"), as_place("photos")
    (Address('s3://bucket'), PosixPath('photos'))
    """
    return Path(place) if as_url(place) is None else Address(place)
