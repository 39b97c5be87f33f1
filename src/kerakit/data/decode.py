"""From a file's bytes to pixels. The range and the type of pixels are decided here and nowhere else.

Pixels are uint8, 0 to 255, RGB, shape (height, width, 3), upright.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kerakit.errors import ImageError

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Files that are taken for images, by their lower-case ending."""

DECODER_VERSION = "v2"
"""Change it whenever the same file gives other pixels than before: caches on disk are known by it."""

MAX_PIXELS = 250_000_000
"""Larger images are refused: a file of a few kilobytes may else take all memory. Phones give up to 200 million."""

_PNG = b"\x89PNG\r\n\x1a\n"
_STARTS = {
    b"\xff\xd8": ".jpg",
    _PNG: ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tiff",
    b"MM\0*": ".tiff",
}
"""What files begin with, and the ending that belongs to it."""

Pixels = NDArray[np.uint8]

# Pillow refuses above twice this.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# The batches are decoded by several threads at once; OpenCV's own threads would only fight with them.
cv2.setNumThreads(0)


def read_image(path: Path | str, input_size: tuple[int, int]) -> Pixels:
    """Read one image file at the size asked for.

    Args:
        path: an image file.
        input_size: (width, height) in pixels. The whole image is scaled to it; its aspect ratio is not kept.

    Returns:
        uint8 (height, width, 3), RGB, 0 to 255.

    Raises:
        ImageError: the file cannot be read, or is no image.
    """
    try:
        return decode(read_bytes(path), input_size)
    except ValueError as error:
        raise ImageError(path, str(error)) from None


def read_bytes(path: Path | str) -> bytes:
    """Return the content of an image file. Raises ImageError if it is not there, no permission is given, or it is no file."""
    try:
        # Opening a named pipe would else wait for a writer, for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ImageError(path, "it is not a regular file")
            return file.readall() or b""
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None


def decode(data: bytes, input_size: tuple[int, int]) -> Pixels:
    """Decode the bytes of an image file at the size asked for.

    Args:
        data: JPEG, PNG, WebP, BMP, GIF (first frame) or TIFF.
        input_size: (width, height) in pixels.

    Returns:
        uint8 (height, width, 3), RGB, 0 to 255.

    Raises:
        ValueError: not an image, or a damaged one.
    """
    if not data:
        raise ValueError("the file is empty")
    pixels = _decode_jpeg(data, input_size) if data[:2] == b"\xff\xd8" else None
    return _resize(_decode_other(data) if pixels is None else pixels, input_size)


def detect_extension(data: bytes) -> str:
    """Return the ending of ``IMAGE_EXTENSIONS`` that the first bytes of a file call for; "" for other formats."""
    if data[:4] == b"RIFF":
        return ".webp" if data[8:12] == b"WEBP" else ""
    return next((ending for start, ending in _STARTS.items() if data.startswith(start)), "")


def size_of(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as the header of an image file gives them, before it is turned upright."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def _decode_jpeg(data: bytes, input_size: tuple[int, int]) -> Pixels | None:
    """Decode a JPEG, scaled down while decoding to no less than ``input_size``; None if only Pillow can read it."""
    orientation = _exif_orientation(data)
    wanted = input_size if orientation < 5 else input_size[::-1]
    width, height = _jpeg_size(data)
    try:
        by = _power_of_two(width, height, wanted)
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_width=-(-width // by), min_height=-(-height // by)
        )
    except ValueError as error:
        if "colorspace" in str(error).lower() or "cmyk" in str(error).lower():
            return None
        raise ValueError(f"damaged JPEG ({error})") from None
    return _upright(pixels, orientation)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ValueError(f"damaged JPEG ({error})") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} by {height} pixels are more than {MAX_PIXELS // 10**6} million")
    return width, height


def _power_of_two(width: int, height: int, wanted: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4, 8 that the sides may be divided by.

    libjpeg-turbo also scales by other eighths, but slowly: with the rest done by ``_resize``, powers of two gave 1,563 images a
    second where the nearest eighth gave 1,149, and were closer to the full image averaged over areas (median 39.5 dB against
    36.6 dB; 786 photos, median 400 by 533, to 224 by 224; docs/decisions.md).
    """
    by = 1
    while by < 8 and width // (2 * by) >= wanted[0] and height // (2 * by) >= wanted[1]:
        by *= 2
    return by


def _exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8 (EXIF 2.3, tag 0x0112); 1 if there is none."""
    if b"Exif\0\0" not in data[: 2**16]:
        return 1
    try:
        orientation: Any = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _decode_other(data: bytes) -> Pixels:
    """Decode what is no JPEG, and the JPEGs that simplejpeg refuses, with Pillow."""
    if data.startswith(_PNG):
        _refuse_damaged_png(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright: Image.Image = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                return _grey(np.asarray(upright, np.uint16) >> 8)
            if upright.mode in ("I", "F"):
                raise ValueError(
                    f"pixels of mode {upright.mode} have no known range; convert it to 8 or 16 bits"
                )
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                # White under what is transparent: what a viewer of the image shows.
                on_white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(on_white, upright.convert("RGBA"))
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow names the object in memory that it read from; the caller names the file.
        reason = "not an image of a known format" if "cannot identify" in str(error) else str(error)
        raise ValueError(reason) from None


def _refuse_damaged_png(data: bytes) -> None:
    """Compare the checksum of every chunk: Pillow passes over those of the pixels."""
    at = len(_PNG)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise ValueError("damaged PNG (truncated)")
        if struct.unpack_from(">I", data, end)[0] != zlib.crc32(memoryview(data)[at + 4 : end]):
            raise ValueError(f"damaged PNG (checksum of {name.decode('ascii', 'replace')})")
        if name == b"IEND":
            return
        at = end + 4
    raise ValueError("damaged PNG (truncated)")


def _grey(pixels: NDArray[Any]) -> Pixels:
    return np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=-1)


def _resize(pixels: Pixels, input_size: tuple[int, int]) -> Pixels:
    """Scale to (width, height): bilinear, and by areas where a side shrinks to a quarter or less, so that little aliases.

    Averaging over areas costs 0.9 ms an image where bilinear costs 0.2 ms; where one side shrinks to a third both gave nearly
    the same (400 by 711 to 224 by 224: median 39.4 dB, least 26.3; docs/decisions.md).
    """
    height, width = pixels.shape[:2]
    if (width, height) == input_size:
        return pixels
    shrinks = width >= 4 * input_size[0] or height >= 4 * input_size[1]
    resized: Pixels = cv2.resize(
        pixels, input_size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized
