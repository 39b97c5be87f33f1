"""Members of shards: image files as they are, or smaller, checked by decoding them."""

from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simplejpeg
from PIL import Image

from kerakit.data.decode import decode_image, decode_with_warning, detect_extension, read_bytes
from kerakit.data.shards.source import Source
from kerakit.device.photo import jpeg_frame, jpeg_orientation, upright_size
from kerakit.errors import ImageError, first_line

_CHECKED_SIZE = (32, 32)
"""Size at which images that stay as they are are decoded, as by ``kerakit check``."""

BLOCK = 512
"""Size of the blocks of a tar file, in bytes."""

_MAX_MEMBER = 8**11 - 1
"""Largest size of a file in a tar file of POSIX, in bytes."""


def _empty_header() -> bytes:
    info = tarfile.TarInfo()
    info.mode = 0o644
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[148:156] = b" " * 8  # the checksum, as it counts in itself
    return bytes(header)


_HEADER = _empty_header()


def tar_header(name: str, size: int) -> bytes:
    """Return the header of a file in a tar file: that of ``tarfile``, in a quarter of its time.

    Raises:
        ValueError: more than 8 GiB.

    >>> info = tarfile.TarInfo("000000042.jpg")
    >>> info.size = 25_000
    >>> tar_header(info.name, info.size) == info.tobuf(tarfile.USTAR_FORMAT)
    True
    """
    if size > _MAX_MEMBER:
        raise ValueError("it has more than 8 GiB, the limit of a file in a tar file")
    header = bytearray(_HEADER)
    text = name.encode()
    header[: len(text)] = text
    header[124:136] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@dataclass
class Sample:
    """The members of an image in its shard.

    Attributes:
        row: row of the dataset.
        members: file extension and content, the image first, then its masks, then its JSON.
        size: (width, height) of the upright image.
        original_size: the same of the file in the dataset.
        error: why it cannot be packed; "" otherwise.
    """

    row: int
    members: list[tuple[str, bytes]] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    original_size: tuple[int, int] = (0, 0)
    error: str = ""


def encode_sample(
    source: Source, row: int, described: bytes, max_side: int | None, quality: int
) -> Sample:
    """Return the members of an image; unreadable files are an error of the sample.

    Args:
        source: the dataset.
        row: row of the image.
        described: its annotation as JSON.
        max_side: largest width and height in pixels; None: images stay as they are.
        quality: of JPEG, for images that are scaled down.
    """
    try:
        return _encode(source, row, described, max_side, quality)
    except ImageError as error:
        return Sample(row, error=error.reason)
    except ValueError as error:
        return Sample(row, error=str(error))


def _encode(
    source: Source, row: int, described: bytes, max_side: int | None, quality: int
) -> Sample:
    place, *masks = source.files(row)
    data = read_bytes(place)
    if not data:
        raise ValueError("the file is empty")
    size = original = _upright_size(data)
    extension = (detect_extension(data) or Path(str(place.suffix)).suffix or ".jpg")[1:].lower()
    if max_side is not None and max(original) > max_side:
        scale = max_side / max(original)
        size = max(1, round(original[0] * scale)), max(1, round(original[1] * scale))
        pixels = decode_image(data, size)
        data = simplejpeg.encode_jpeg(pixels, quality, colorspace="RGB", colorsubsampling="420")
        extension = "jpg"
    else:
        decode_with_warning(data, _CHECKED_SIZE)
    members = [(extension, data)]
    for name, mask in zip(source.masks, masks, strict=True):
        members.append(_mask(name, mask))
    members.append(("json", described))
    return Sample(row, members, size, original)


def _upright_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) as decoding finds them, without looking for superfluous segments."""
    if data[:2] != b"\xff\xd8":
        return upright_size(data)
    width, height, _ = jpeg_frame(data)
    return (width, height) if jpeg_orientation(data) < 5 else (height, width)


def _mask(name: str, place: Any) -> tuple[str, bytes]:
    try:
        data = read_bytes(place)
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except ImageError as error:
        raise ValueError(f"its mask {place} cannot be read: {error.reason}") from None
    except Exception as error:  # damaged files raise errors of many types in Pillow
        raise ValueError(f"its mask {place} cannot be read: {first_line(error)}") from None
    extension = detect_extension(data) or place.suffix
    return f"{name.lower().replace('.', '_').replace('/', '_')}{extension.lower()}", data


def write_sample(file: Any, key: str, sample: Sample, masks: list[str]) -> dict[str, Any]:
    """Append the members of a sample to a tar file; return its row of the index of the shard."""
    width, height = sample.size
    record: dict[str, Any] = {
        "row": sample.row,
        "error": sample.error,
        "width": width,
        "height": height,
        "original_width": sample.original_size[0],
        "original_height": sample.original_size[1],
    }
    prefixes = ["", *(f"{mask}_" for mask in masks)]
    for i, prefix in enumerate(prefixes):
        content = sample.members[i][1] if sample.members else b""
        record |= {
            f"{prefix}offset": 0,
            f"{prefix}size": len(content),
            f"{prefix}crc32": zlib.crc32(content),
        }
    for i, (extension, content) in enumerate(sample.members):
        file.write(tar_header(f"{key}.{extension}", len(content)))
        if i < len(prefixes):
            record[f"{prefixes[i]}offset"] = file.tell()
        file.write(content)
        file.write(bytes(-len(content) % BLOCK))
    return record
