"""Decoding of image files. The only definition of the range and dtype of pixels.

Pixels are uint8, 0 to 255, RGB, shape (height, width, 3), upright.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from kerakit.data.shards.member import Member
from kerakit.descriptors import NO_BLOCK, open_file
from kerakit.device.photo import (
    EXTENSIONS,
    SMALLEST_SCALED,
    clean_jpeg,
    decode,
    jpeg_frame,
    jpeg_orientation,
    large_image,
    turn_upright,
    upright_size,
)
from kerakit.device.preprocessing import STRETCH, Preprocessing
from kerakit.errors import ImageError, UserError
from kerakit.machine import available_cores

IMAGE_EXTENSIONS = frozenset(EXTENSIONS)
"""File extensions of images, in lower case."""

DECODER_VERSION = "v6"
"""Part of the keys of caches on disk: change it whenever decoding changes any file's pixels."""

_FILES = 64
"""Files per task of the thread pool that reads sizes."""

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

# Warnings of libjpeg about a file whose pixels are complete: version, bytes that belong to no
# segment, unknown parameters (jerror.h). Its other warnings mean that pixels are missing.
_HARMLESS = (
    *("unknown JFIF revision", "extraneous bytes", "Unknown Adobe color transform"),
    *("Invalid SOS parameters", "bad ICC marker", "Inconsistent progression"),
)

_HEADER = (
    "tjDecompressHeader"  # in the errors of libjpeg-turbo about anything before the first scan
)

# Batches are decoded by several threads at once; OpenCV's own threads would compete with them.
cv2.setNumThreads(0)


def read_image(
    path: Path | str | Member, input_size: tuple[int, int], preprocessing: Preprocessing = STRETCH
) -> Pixels:
    """Read an image file at ``input_size``.

    Args:
        path: path of the image file, or member of a shard.
        input_size: (width, height) in pixels.
        preprocessing: crop, resize policy and color; default: the whole image is resized without
            preserving the aspect ratio.

    Returns:
        uint8 (height, width, 3), RGB, 0 to 255.

    Raises:
        ImageError: the file cannot be read, or is not an image.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (640, 480), "red").save(f"{folder}/photo.png")
    ...     pixels = read_image(f"{folder}/photo.png", input_size=(224, 192))
    >>> pixels.shape, pixels[0, 0].tolist()
    ((192, 224, 3), [255, 0, 0])
    """
    try:
        return decode_image(read_bytes(path), input_size, preprocessing)
    except ValueError as error:
        raise ImageError(path, str(error)) from None


def read_bytes(path: Path | str | Member) -> bytes:
    """Return the content of an image file.

    Raises:
        ImageError: no such file, no permission, or not a regular file.
    """
    if isinstance(path, Member):
        return path.read_bytes()
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer forever.
        handle = open_file(path, os.O_RDONLY | NO_BLOCK)
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ImageError(path, "it is not a regular file")
            return file.readall() or b""
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None


def decode_image(
    data: bytes, input_size: tuple[int, int], preprocessing: Preprocessing = STRETCH
) -> Pixels:
    """Decode the bytes of an image file at ``input_size``.

    Args:
        data: JPEG, PNG, WebP, BMP, GIF (first frame) or TIFF.
        input_size: (width, height) in pixels.
        preprocessing: crop, resize policy and color.

    Returns:
        uint8 (height, width, 3), RGB, 0 to 255.

    Raises:
        ValueError: not an image, or a damaged one.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (8, 8), 128).save(file, "PNG")
    >>> decode_image(file.getvalue(), input_size=(4, 4))[0, 0].tolist()
    [128, 128, 128]
    """
    return decode_with_warning(data, input_size, preprocessing)[0]


def decode_with_warning(
    data: bytes, input_size: tuple[int, int], preprocessing: Preprocessing = STRETCH
) -> tuple[Pixels, str]:
    """Decode as ``decode_image``; also return libjpeg's warning about the file, or ""."""
    if not data:
        raise ValueError("the file is empty")
    if data[:2] == b"\xff\xd8":
        resized = input_size
        if preprocessing != STRETCH:
            width, height, _ = jpeg_frame(data)
            upright = (width, height) if jpeg_orientation(data) < 5 else (height, width)
            layout = preprocessing.layout(*upright, input_size)
            resized = layout.resized
        pixels, warning = _decode_jpeg(data, resized)
    else:
        pixels, warning = decode(data, *input_size), ""
        layout = preprocessing.layout(pixels.shape[1], pixels.shape[0], input_size)
    if preprocessing == STRETCH:
        return _resize(pixels, input_size), warning
    return layout.apply(_resize(pixels, layout.resized)), warning


def checked_pixels(value: Any, source: str, input_size: tuple[int, int] | None = None) -> Pixels:
    """Return ``value`` if it is an image: uint8 (height, width, 3).

    Args:
        value: what a function of the user returned.
        source: name of that function.
        input_size: (width, height) that the image has to have; default: any.

    Raises:
        UserError: it is something else.
    """
    is_image = (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.ndim == 3
        and value.shape[2] == 3
        and value.size > 0
    )
    if not is_image:
        raise UserError(
            f"{source} returned {_describe(value)}. Expected an image, uint8 (height, width, 3) "
            "with pixels of 0 to 255. Models normalize their pixels: omit A.Normalize, A.ToFloat, "
            "ToTensorV2, and a division by 255."
        )
    if input_size is not None and value.shape[:2] != input_size[::-1]:
        raise UserError(
            f"{source} returned {_describe(value)}. Expected the input size: (height, width, 3) is "
            f"{(*input_size[::-1], 3)}. Resize the image, or change --input_size."
        )
    pixels: Pixels = value
    return pixels


def _describe(value: Any) -> str:
    """Return dtype, shape and range of an array, or the type of another value."""
    if not isinstance(value, np.ndarray):
        return "None" if value is None else f"a value of type {type(value).__name__}"
    text = f"{value.dtype} {value.shape}"
    if value.size and value.dtype.kind in "biuf":
        text += f", {value.min():.4g} to {value.max():.4g}"
    return text


def detect_extension(data: bytes) -> str:
    """Return the file extension of the format of ``data`` by its first bytes; "" if unsupported."""
    if _NETPBM.match(data):
        return ".ppm"
    if data[:4] == b"RIFF":
        return ".webp" if data[8:12] == b"WEBP" else ""
    return next(
        (extension for start, extension in _SIGNATURES.items() if data.startswith(start)), ""
    )


def read_upright_size(path: Path | str | Member) -> tuple[int, int]:
    """Return (width, height) in pixels of an image file, its orientation applied.

    Raises:
        ImageError: the file cannot be read, or is damaged.
    """
    if isinstance(path, Member) and min(path.image_size) > 0:
        return path.image_size
    try:
        return upright_size(read_bytes(path))
    except ValueError as error:
        raise ImageError(path, str(error)) from None


def read_upright_sizes(paths: Sequence[str]) -> NDArray[np.int32]:
    """Return width and height of image files, int32 (n, 2); 0 where one cannot be read."""

    def read(start: int) -> list[tuple[int, int]]:
        sizes = []
        for path in paths[start : start + _FILES]:
            try:
                sizes.append(read_upright_size(path))
            except ImageError:
                sizes.append((0, 0))
        return sizes

    with ThreadPoolExecutor(available_cores()) as pool:
        found = [size for part in pool.map(read, range(0, len(paths), _FILES)) for size in part]
    return np.array(found, np.int32).reshape(-1, 2)


def _decode_jpeg(data: bytes, input_size: tuple[int, int]) -> tuple[Pixels, str]:
    """Decode a JPEG at ``input_size`` or larger; return libjpeg's warning, too."""
    orientation = jpeg_orientation(data)
    stored_size = input_size if orientation < 5 else input_size[::-1]
    width, height, channels = jpeg_frame(data)
    if channels == 4:  # CMYK: libjpeg-turbo does not convert it
        return decode(data, *input_size), ""
    least = {}
    if max(width, height) >= SMALLEST_SCALED:
        divisor = _downscale(width, height, stored_size)
        least = {"min_width": -(-width // divisor), "min_height": -(-height // divisor)}
    try:
        # A progressive JPEG takes 3 to 6 bytes per pixel, however small it is decoded.
        with large_image(width, height):
            pixels, warning = _decode_complete(data, least)
    except ValueError as error:
        raise ValueError(f"damaged JPEG ({error})") from None
    return turn_upright(pixels, orientation), warning


def _decode_complete(data: bytes, least: dict[str, int]) -> tuple[Pixels, str]:
    """Decode a JPEG unless pixels are missing; return the warning, too.

    libjpeg returns its first warning alone, so one about the header would hide a cut-off scan. An
    error in the header may come from what decoding does not need, such as a doubled marker.
    """
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **least), ""
    except ValueError as error:
        warning = str(error)
        if _HEADER in warning:
            warning = "superfluous markers or segments before the pixels"
        elif not _is_harmless(warning):
            raise
    data = clean_jpeg(data)
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **least), warning
    except ValueError as error:
        # About the scan. It is complete if the end of the image (0xFFD9) follows it.
        if not _is_harmless(str(error)):
            raise
        if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise ValueError("Premature end of JPEG file") from None
    return simplejpeg.decode_jpeg(data, "RGB", strict=False, **least), warning


def _is_harmless(warning: str) -> bool:
    return any(part in warning for part in _HARMLESS)


def _downscale(width: int, height: int, size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4, 8 that divides both sides to at least ``size``.

    libjpeg-turbo also scales by other eighths, but slowly. With the rest left to ``_resize``,
    powers of two decoded 1,563 images per second, the nearest eighth 1,149, and were closer to area
    averaging of the full image (median 39.5 dB against 36.6 dB; 786 photos, median 400 by 533, to
    224 by 224; see the decisions page).
    """
    fitting = (d for d in (8, 4, 2) if width // d >= size[0] and height // d >= size[1])
    return next(fitting, 1)


def _resize(pixels: Pixels, input_size: tuple[int, int]) -> Pixels:
    """Resize to (width, height): area averaging from a quarter down, otherwise bilinear.

    Area averaging takes 0.9 ms per image, bilinear interpolation 0.2 ms; where one side shrinks to
    a third, both are nearly equal (400 by 711 to 224 by 224: median 39.4 dB, minimum 26.3; see the
    decisions page). A side that grows is interpolated after the other was averaged.
    """
    height, width = pixels.shape[:2]
    resized = pixels
    if width >= 4 * input_size[0] or height >= 4 * input_size[1]:
        area = min(width, input_size[0]), min(height, input_size[1])
        resized = cv2.resize(pixels, area, interpolation=cv2.INTER_AREA)
    if resized.shape[1::-1] != input_size:
        resized = cv2.resize(resized, input_size, interpolation=cv2.INTER_LINEAR)
    return resized
