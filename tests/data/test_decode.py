"""Every kind of image comes out as uint8 RGB, upright, at the size asked for."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from kerakit import UserError
from kerakit.data import decode_image, read_image
from kerakit.data.decode import decode_with_warning
from kerakit.device.photo import upright_size

SIZE = (48, 32)


def photo() -> Image.Image:
    """A real photo, 640 by 427 pixels."""
    return Image.fromarray(load_sample_image("china.jpg"))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("BMP", {}),
        ("TIFF", {}),
    ],
)
def test_every_format_gives_the_same_picture(kind: str, options: dict[str, Any]) -> None:
    pixels = decode_image(encoded(photo(), kind, **options), SIZE)
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(photo().resize(SIZE, Image.Resampling.BOX))
    assert psnr(pixels, expected) > 28


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_gives_rgb(mode: str) -> None:
    image = photo().convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    pixels = decode_image(encoded(image, kind), SIZE)
    expected = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BOX))
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert psnr(pixels, expected) > 20


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decode_image(encoded(Image.fromarray(ramp), "PNG"), (16, 16))
    np.testing.assert_array_equal(pixels[..., 0].ravel(), np.arange(256))


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (decode_image(encoded(image, "PNG"), (8, 8)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = photo()
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif)
    pixels = decode_image(data, SIZE)
    expected = np.asarray(photo().resize(SIZE, Image.Resampling.BOX))
    assert psnr(pixels, expected) > 28
    assert upright_size(data) == photo().size


def test_a_thumbnail_and_an_enlargement_have_the_size_asked_for() -> None:
    tiny = Image.new("RGB", (1, 1), (1, 2, 3))
    assert decode_image(encoded(tiny, "PNG"), (5, 7)).shape == (7, 5, 3)
    assert decode_image(encoded(photo(), "JPEG"), (1, 1)).shape == (1, 1, 3)


def test_a_jpeg_scaled_while_decoding_does_not_alias() -> None:
    """It is closer to area averaging of the full image than bilinear interpolation is."""
    data = encoded(photo(), "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for size in ((96, 96), (50, 40)):
        averaged = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
        interpolated = cv2.resize(full, size, interpolation=cv2.INTER_LINEAR)
        assert psnr(decode_image(data, size), averaged) > psnr(interpolated, averaged) + 3


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.98), kind=st.sampled_from(["JPEG", "PNG", "BMP"]))
def test_a_cut_file_is_an_error_and_never_pixels(cut: float, kind: str) -> None:
    data = encoded(photo().resize((64, 48)), kind)
    with pytest.raises(ValueError, match=r".+"):
        decode_image(data[: int(len(data) * cut)], SIZE)


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a"]),
)
def test_noise_is_an_error_and_nothing_else(data: bytes, start: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert decode_image(start + data, SIZE).shape == (SIZE[1], SIZE[0], 3)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_text("shopping list")
    with pytest.raises(UserError, match=r"notes\.jpg: not an image"):
        read_image(bad, SIZE)
    with pytest.raises(UserError, match=r"gone\.jpg: No such file"):
        read_image(tmp_path / "gone.jpg", SIZE)
    with pytest.raises(UserError, match="Is a directory"):
        read_image(tmp_path, SIZE)


def warned(name: str) -> bytes:
    """A JPEG with all its pixels, and a deviation that libjpeg warns of."""
    data = encoded(photo(), "JPEG", quality=95, progressive="progressive" in name)
    if "JFIF" in name:
        data = data[:11] + b"\x09" + data[12:]
    if "tables" in name:
        at = data.index(b"\xff\xdb")
        data = data[:at] + b"\0\1\2" + data[at:]
    if "end" in name:
        data = data[:-2] + b"\x00\x11\x22" * 20 + data[-2:]
    if "transform" in name:
        data = data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07" + data[2:]
    return data


WARNED = [
    "JFIF revision",
    "extraneous bytes before the tables",
    "extraneous bytes before the end",
    "JFIF revision, extraneous bytes before the end",
    "unknown transform, bytes before the tables and the end",
    "progressive, bytes before the end",
]


@pytest.mark.parametrize("name", WARNED)
def test_a_jpeg_with_a_warning_and_all_pixels_is_read(name: str) -> None:
    plain = decode_image(encoded(photo(), "JPEG", quality=95), SIZE)
    pixels, warning = decode_with_warning(warned(name), SIZE)
    np.testing.assert_array_equal(pixels, plain)
    assert warning
    assert decode_with_warning(encoded(photo(), "JPEG"), SIZE)[1] == ""


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(WARNED), cut=st.floats(0, 0.99), is_ended=st.booleans())
def test_a_jpeg_with_a_warning_and_missing_pixels_is_an_error(
    name: str, cut: float, is_ended: bool
) -> None:
    data = warned(name)
    data = data[: int(len(data) * cut)] + (b"\xff\xd9" if is_ended else b"")
    with pytest.raises(ValueError, match=r".+"):
        decode_image(data, SIZE)
