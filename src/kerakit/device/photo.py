"""Image files as upright RGB pixels: one definition for training and for devices.

Needs Python 3.7 or newer, NumPy, and Pillow 7 or newer.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF")
"""Pillow's names of the formats that are read."""

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
)
"""File extensions of images, in lower case."""

MAX_JPEG_PIXELS = 250_000_000
"""Limit of JPEGs, which are decoded at a fraction of their size. Phones: up to 200 million."""

MAX_PIXELS = 100_000_000
"""Limit of other formats: a file of a few kilobytes may decode to gigabytes. Decoding takes up to
16 bytes per pixel (WebP; others 4 to 8), at most 1.6 GB."""

LARGE_PIXELS = 25_000_000
"""Larger images are decoded one at a time, so that memory does not grow with the threads."""

# Markers of JPEG segments with the size (ITU-T T.81, table B.1).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION, _XMP = 0x0112, 700  # tags of TIFF and EXIF
# Tags of TIFF about the layout and the meaning of pixels (TIFF 6.0; 339 to 347: its supplements).
_NEEDED_TAGS = frozenset(
    (
        *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 321),
        *range(322, 326),
        *range(332, 342),
        347,
        *range(512, 522),
        *range(529, 533),
    )
)
_SIZES = {1: "B", 3: "H", 4: "L"}  # types of TIFF that hold one small integer
_COMPRESSION, _CCITT_RLE = 259, (2, 32771)  # libtiff decodes rows of these to others, without error
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\b")
_PNG = b"\x89PNG\r\n\x1a\n"
_STRIP_PIXELS = 2**22
_large_image = threading.Lock()

SMALLEST_SCALED = 8
"""Longer side in pixels from which a JPEG is scaled down by its decoder.

Below, several factors of libjpeg-turbo have the same size, and programs choose different ones.
"""

# Pillow's own limit would warn about images that are read here, and be an error above twice this.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS


def decode(data: bytes, width: int, height: int) -> Any:
    """Decode an image file with Pillow to uint8 (rows, columns, 3), RGB, upright.

    The first frame is read. Transparency becomes white; of 16 bits, the upper 8 are used. A JPEG is
    scaled down by 2, 4 or 8, to ``width`` by ``height`` at least, unless it is below
    SMALLEST_SCALED.

    Raises:
        ValueError: not an image, a damaged one, or one of too many pixels.
    """
    try:
        data, orientation = clean(data)
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in FORMATS:
                raise ValueError(f"the format {image.format} is not supported")
            is_jpeg = image.format == "JPEG"
            check_size(*image.size, MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS)
            with large_image(*image.size):
                if is_jpeg and max(image.size) >= SMALLEST_SCALED:
                    turned = orientation > 4
                    image.draft(image.mode, (height, width) if turned else (width, height))
                image.load()
                return turn_upright(_to_rgb(image), orientation or _info_orientation(image.info))
    except ValueError:
        raise
    # Damaged files raise errors of many types in Pillow: struct.error, AttributeError, zlib.error.
    except Exception as error:
        # Pillow's message names the BytesIO object; the caller names the file.
        unknown = "cannot identify" in str(error)
        reason = "not an image of a supported format" if unknown else str(error)
        raise ValueError(reason or type(error).__name__) from None


def upright_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels of an image file, its orientation applied, by its header.

    Raises:
        ValueError: not an image, or a damaged one.
    """
    try:
        data, orientation = clean(data)
        if data[:2] == b"\xff\xd8":
            width, height, _ = jpeg_frame(data)
        else:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if not orientation:
                    if data.startswith(_PNG) and any(mark in data for mark in _ORIENTED):
                        image.load()  # its orientation may be behind its pixels
                    orientation = _info_orientation(image.info)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from None
    return (width, height) if orientation < 5 else (height, width)


def clean(data: bytes) -> tuple[bytes, int]:
    """Return a file without what decoding does not need, and its orientation, 0 if not known yet.

    Pillow then meets no tag of a wrong type, no text that is too large, and no damaged later page.

    Raises:
        ValueError: the file is damaged in a way that Pillow does not report, or is not supported.
    """
    if data[:2] == b"\xff\xd8":
        return clean_jpeg(data), jpeg_orientation(data)
    if data.startswith(_PNG):
        return _clean_png(data), 0
    return _first_page(data)


def check_size(width: int, height: int, limit: int) -> None:
    """Raise ValueError if an image has more pixels than the limit."""
    if width * height > limit:
        raise ValueError(
            f"{width} by {height} pixels exceed the limit of {limit // 10**6} million; scale the "
            "image down"
        )


@contextlib.contextmanager
def large_image(width: int, height: int) -> Iterator[None]:
    """Wait until no other large image is decoded, if this one is large."""
    if width * height <= LARGE_PIXELS:
        yield
        return
    with _large_image:
        yield


def average(pixels: Any, width: int, height: int) -> Any:
    """Reduce uint8 (rows, columns, 3) to (height, width, 3): the mean of each pixel's area.

    As OpenCV's INTER_AREA, and unlike Pillow's BOX, a pixel at the border of two areas counts in
    both, by its fractions. In float32, as OpenCV, so that ties are rounded alike.
    """
    rows, columns = pixels.shape[:2]
    sums = _sum_areas(_sum_areas(pixels, height).transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.rint(sums * np.float32(width * height / (columns * rows))).astype(np.uint8)


def _sum_areas(values: Any, count: int) -> Any:
    """Return the sums of ``count`` equal areas along the first axis, float32."""
    borders = np.arange(count + 1) * (len(values) / count)
    sums = np.empty((count, *values.shape[1:]), np.float32)
    for i in range(count):
        begin, end = borders[i], borders[i + 1]
        at = np.arange(int(begin), min(math.ceil(end), len(values)))
        weights = np.minimum(at + 1, end) - np.maximum(at, begin)
        area = values[at[0] : at[-1] + 1].astype(np.float32).reshape(len(at), -1)
        sums[i] = (weights.astype(np.float32) @ area).reshape(sums.shape[1:])
    return sums


def turn_upright(pixels: Any, orientation: int) -> Any:
    """Apply an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def jpeg_orientation(data: bytes) -> int:
    """Return the orientation of a JPEG, 1 to 8: that of its EXIF, else of its XMP, else 1."""
    from_xmp = 0
    for marker, start, end in jpeg_segments(data):
        if marker != 0xE1:
            continue
        segment = data[start:end]
        if segment.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(segment[6:])
            if orientation:
                return orientation
        elif segment.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            from_xmp = from_xmp or _xmp_orientation(segment)
    return from_xmp or 1


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Return width, height and number of channels of a JPEG, before its orientation is applied.

    Raises:
        ValueError: the JPEG has no size, or too many pixels.
    """
    for marker, start, end in jpeg_segments(data):
        if marker in _START_OF_FRAME and end - start >= 6:
            height, width, channels = struct.unpack_from(">HHB", data, start + 1)
            check_size(width, height, MAX_JPEG_PIXELS)
            if width and height:
                return width, height, channels
    raise ValueError("damaged JPEG (no size)")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the content of each segment up to the first scan (0xDA)."""
    at = 2
    while True:
        at = data.find(b"\xff", at)  # bytes between segments are skipped, as libjpeg does
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if at < 0 or at + 3 > len(data):
            return
        marker = data[at]
        at += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # markers without a segment
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == 0xD9:
            return
        length = max(length, 2)  # as libjpeg skips a segment of an impossible length
        yield marker, at + 2, min(at + length, len(data))
        if marker == 0xDA:
            return
        at += length


def clean_jpeg(data: bytes) -> bytes:
    """Return a JPEG without what decoding does not need, and JFIF as version 1.01.

    EXIF, profiles and previews go, and bytes and markers that belong to no segment.

    Raises:
        ValueError: the JPEG is truncated. Pillow pads what is missing, if zeros follow, with gray.
    """
    parts = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker == 0xDA:
            if data.find(b"\xff\xd9", end) < 0:
                raise ValueError("damaged JPEG (truncated)")
            return b"".join([*parts, data[start - 4 :]])
        content = data[start:end]
        if content[:5] == b"JFIF\0":
            content = content[:5] + b"\1\1" + content[7:]
        # Of comments and APP0 to APP15, only JFIF and Adobe's have a part in the colors.
        is_needed = content[:5] in (b"JFIF\0", b"Adobe")
        if is_needed or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(bytes([0xFF, marker]) + data[start - 2 : start] + content)
    return data


_ORIENTED = (b"eXIf", b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Marks of the chunks of a PNG that may hold an orientation."""


def _clean_png(data: bytes) -> bytes:
    """Return a PNG without chunks that decoding does not need, which may be too large for Pillow.

    Raises:
        ValueError: a chunk is truncated or its checksum differs. Pillow ignores those of pixels.
    """
    parts, at = [_PNG], len(_PNG)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">L4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if struct.unpack_from(">L", data, end)[0] != zlib.crc32(memoryview(data)[at + 4 : end]):
            raise ValueError(f"damaged PNG (checksum of {name.decode('ascii', 'replace')})")
        # The first letter of critical chunks is upper-case.
        is_needed = name[:1].isupper() or name in (b"tRNS", b"eXIf")
        has_orientation = data.startswith(_ORIENTED[1:], at + 8)
        if is_needed or (has_orientation and length < 2**20):
            parts.append(data[at : end + 4])
        if name == b"IEND":
            return b"".join(parts)
        at = end + 4
    raise ValueError("damaged PNG (truncated)")


def _info_orientation(info: Any) -> int:
    """Return the orientation in the EXIF or XMP that Pillow has found, or 1."""
    exif = info.get("exif", b"")
    if not exif and isinstance(info.get("Raw profile type exif"), str):  # ImageMagick's, in PNG
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
    if exif[:6] == b"Exif\0\0":
        exif = exif[6:]
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    return _exif_orientation(exif) or _xmp_orientation(xmp) or 1


def _xmp_orientation(xmp: bytes) -> int:
    match = _XMP_ORIENTATION.search(xmp)
    return int(match.group(1)) if match else 0


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation in a block of EXIF, 1 to 8 (EXIF 2.3, tag 0x0112), or 0."""
    order = _byte_order(exif)
    for entry in _tiff_entries(exif):
        tag, kind, count = struct.unpack_from(order + "HHL", entry)
        if tag == _ORIENTATION and kind in _SIZES and count == 1:
            (value,) = struct.unpack_from(order + _SIZES[kind], entry, 8)
            return value if 1 <= value <= 8 else 0
    return 0


def _byte_order(data: bytes) -> str:
    return "<" if data[:1] == b"I" else ">"


def _tiff_entries(data: bytes) -> list[bytes]:
    """Return the entries of the first directory of a TIFF or of EXIF, 12 bytes each."""
    if data[:4] not in (b"II*\0", b"MM\0*") or len(data) < 8:
        return []
    order = _byte_order(data)
    (at,) = struct.unpack_from(order + "L", data, 4)
    if at + 2 > len(data):
        return []
    (count,) = struct.unpack_from(order + "H", data, at)
    last = min(at + 2 + 12 * count, len(data)) - 12
    return [data[start : start + 12] for start in range(at + 2, last + 1, 12)]


def _first_page(data: bytes) -> tuple[bytes, int]:
    """Return a TIFF as its first page with the tags that decoding needs, and its orientation.

    New versions of Pillow turn a TIFF themselves, old ones do not; other tags and later pages may
    be damaged. Other files are returned as they are, with orientation 0.
    """
    entries, order = _tiff_entries(data), _byte_order(data)
    if not entries:
        return data, 0
    needed, from_xmp = [], 0
    for entry in entries:
        tag, _, count, at = struct.unpack_from(order + "HHLL", entry)
        if tag == _COMPRESSION and struct.unpack_from(order + "H", entry, 8)[0] in _CCITT_RLE:
            raise ValueError(
                "TIFF with CCITT RLE compression is not supported; use another compression"
            )
        if tag in _NEEDED_TAGS:
            needed.append(entry)
        elif tag == _XMP:
            from_xmp = _xmp_orientation(data[at : at + count])
    page = bytearray(data)
    (start,) = struct.unpack_from(order + "L", data, 4)
    directory = struct.pack(order + "H", len(needed)) + b"".join(needed) + bytes(4)
    page[start : start + len(directory)] = directory
    return bytes(page), _exif_orientation(data) or from_xmp or 1


def _to_rgb(image: Any) -> Any:
    """Convert in strips, so that an image with transparency does not take four times its memory."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(
            f"pixels of mode {image.mode} have no defined range; convert it to 8 or 16 bits"
        )
    if rows >= height:
        return _strip_to_rgb(image)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = _strip_to_rgb(image.crop((0, top, width, bottom)))
    return pixels


def _strip_to_rgb(image: Any) -> Any:
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits; mode I for PNG before Pillow 10.3
        values = np.asarray(image)
        gray = (values >> 8).astype(np.uint8)
        if isinstance(transparent, int):
            gray[values == transparent] = 255
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or transparent is not None:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))
