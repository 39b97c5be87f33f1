"""Decoding of image files. The only definition of the range and dtype of pixels.

Pixels are uint8, 0 to 255, RGB, shape (height, width, 3), upright.
"""

from __future__ import annotations

import io
import os
import re
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

IMAGE_EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
    }
)
"""File extensions of images, in lower case."""

DECODER_VERSION = "v2"
"""Part of the keys of caches on disk: change it whenever decoding changes any file's pixels."""

MAX_PIXELS = 250_000_000
"""Limit per image: a file of a few kilobytes may decode to gigabytes. Phones: up to 200 million."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NETPBM = re.compile(rb"P[1-6]\s+[\d#]")
_SIGNATURES = {
    b"\xff\xd8": ".jpg",
    _PNG: ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tiff",
    b"MM\0*": ".tiff",
}
"""First bytes of a file, and the file extension of that format."""

Pixels = NDArray[np.uint8]
"""An image: uint8 (height, width, 3), RGB, 0 to 255.

>>> black: Pixels = np.zeros((192, 224, 3), np.uint8)
"""

# Pillow raises an error above twice this.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Batches are decoded by several threads at once; OpenCV's own threads would compete with them.
cv2.setNumThreads(0)


def read_image(path: Path | str, input_size: tuple[int, int]) -> Pixels:
    """Read an image file at ``input_size``.

    Args:
        path: path of the image file.
        input_size: (width, height) in pixels. The image is resized without preserving the aspect
            ratio.

    Returns:
        uint8 (height, width, 3), RGB, 0 to 255.

    Raises:
        ImageError: the file cannot be read, or is not an image.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (640, 480), "red").save(f"{folder}/photo.png")
    ...     pixels = read_image(f"{folder}/photo.png", input_size=(224, 192))
    >>> pixels.shape, pixels[0, 0].tolist()
    ((192, 224, 3), [255, 0, 0])
    """
    try:
        return decode_image(read_bytes(path), input_size)
    except ValueError as error:
        raise ImageError(path, str(error)) from None


def read_bytes(path: Path | str) -> bytes:
    """Return the content of an image file.

    Raises:
        ImageError: no such file, no permission, or not a regular file.
    """
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer forever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ImageError(path, "it is not a regular file")
            return file.readall() or b""
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None


def decode_image(data: bytes, input_size: tuple[int, int]) -> Pixels:
    """Decode the bytes of an image file at ``input_size``.

    Args:
        data: JPEG, PNG, WebP, BMP, GIF (first frame) or TIFF.
        input_size: (width, height) in pixels.

    Returns:
        uint8 (height, width, 3), RGB, 0 to 255.

    Raises:
        ValueError: not an image, or a damaged one.

    >>> file = io.BytesIO()
    >>> Image.new("L", (8, 8), 128).save(file, "PNG")
    >>> decode_image(file.getvalue(), input_size=(4, 4))[0, 0].tolist()
    [128, 128, 128]
    """
    if not data:
        raise ValueError("the file is empty")
    pixels = _decode_jpeg(data, input_size) if data[:2] == b"\xff\xd8" else None
    return _resize(_decode_other(data) if pixels is None else pixels, input_size)


def detect_extension(data: bytes) -> str:
    """Return the file extension of the format of ``data`` by its first bytes; "" if unsupported."""
    if _NETPBM.match(data):
        return ".ppm"
    if data[:4] == b"RIFF":
        return ".webp" if data[8:12] == b"WEBP" else ""
    return next(
        (extension for start, extension in _SIGNATURES.items() if data.startswith(start)), ""
    )


def read_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from an image's header, before EXIF orientation."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def _decode_jpeg(data: bytes, input_size: tuple[int, int]) -> Pixels | None:
    """Decode a JPEG at ``input_size``, or None if only Pillow can decode it."""
    orientation = _exif_orientation(data)
    stored_size = input_size if orientation < 5 else input_size[::-1]
    width, height = _jpeg_size(data)
    try:
        divisor = _downscale(width, height, stored_size)
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_width=-(-width // divisor), min_height=-(-height // divisor)
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
        raise ValueError(
            f"{width} by {height} pixels exceed the limit of {MAX_PIXELS // 10**6} million"
        )
    return width, height


def _downscale(width: int, height: int, size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4, 8 that divides both sides to at least ``size``.

    libjpeg-turbo also scales by other eighths, but slowly. With the rest left to ``_resize``,
    powers of two decoded 1,563 images per second, the nearest eighth 1,149, and were closer to area
    averaging of the full image (median 39.5 dB against 36.6 dB; 786 photos, median 400 by 533, to
    224 by 224; see the decisions page).
    """
    fitting = (d for d in (8, 4, 2) if width // d >= size[0] and height // d >= size[1])
    return next(fitting, 1)


def _exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8 (EXIF 2.3, tag 0x0112); 1 without one."""
    if b"Exif\0\0" not in data[: 2**16]:
        return 1
    try:
        orientation: Any = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _decode_other(data: bytes) -> Pixels:
    """Decode other formats than JPEG, and JPEGs that simplejpeg does not support, with Pillow."""
    if data.startswith(_PNG):
        _check_png(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright: Image.Image = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright, np.uint16) >> 8).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise ValueError(
                    f"pixels of mode {upright.mode} have no defined range; convert it to 8 or 16 "
                    "bits"
                )
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                # Transparent pixels become white, as image viewers show them.
                on_white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(on_white, upright.convert("RGBA"))
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow's message names the BytesIO object; the caller names the file.
        reason = (
            "not an image of a supported format" if "cannot identify" in str(error) else str(error)
        )
        raise ValueError(reason) from None


def _check_png(data: bytes) -> None:
    """Raise ValueError unless the checksums of all chunks match: Pillow ignores those of pixels."""
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


def _resize(pixels: Pixels, input_size: tuple[int, int]) -> Pixels:
    """Resize to (width, height): area averaging from a quarter down, otherwise bilinear.

    Area averaging takes 0.9 ms per image, bilinear interpolation 0.2 ms; where one side shrinks to
    a third, both are nearly equal (400 by 711 to 224 by 224: median 39.4 dB, minimum 26.3; see the
    decisions page).
    """
    height, width = pixels.shape[:2]
    if (width, height) == input_size:
        return pixels
    shrinks = width >= 4 * input_size[0] or height >= 4 * input_size[1]
    resized: Pixels = cv2.resize(
        pixels, input_size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized
