"""Damaged and odd files are read correctly or named; nothing crashes, hangs or is misread."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from kerakit import ImageError
from kerakit.data import DataReader, read_image
from kerakit.data.check import check_images
from kerakit.data.findings import Finding
from projects import write_image

PHOTO = load_sample_image("china.jpg")


def encoded(kind: str, pixels: Any = PHOTO, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def cut(kind: str, fraction: float) -> bytes:
    whole = encoded(kind)
    return whole[: int(len(whole) * fraction)]


def png_chunk(name: bytes, data: bytes, damage: int = 0) -> bytes:
    return (
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data) ^ damage)
    )


def png(width: int, height: int, damage: bytes = b"") -> bytes:
    rows = zlib.compress(b"\0" * (1 + width * 3) * min(height, 100))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, data, int(name == damage)) for name, data in chunks
    )


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header (SOF0) claims another size."""
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\xf0\0\0"
        + bytes(6)
        + encoded("GIF", PHOTO[:8, :8])[13:]
    )


def bmp_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded("BMP", PHOTO[:8, :8]))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_in_a_circle() -> bytes:
    """Its only directory of tags has none, and points to itself."""
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 8)


def large_text() -> bytes:
    """A PNG with a comment of 64 MiB, which is more than Pillow reads."""
    data, text = encoded("PNG", PHOTO[20:]), b"zTXtComment\0\0" + zlib.compress(bytes(2**26))
    chunk = struct.pack(">L", len(text) - 4) + text + struct.pack(">L", zlib.crc32(text))
    return data[:33] + chunk + data[33:]


def frames() -> bytes:
    file = io.BytesIO()
    images = [Image.fromarray(pixels) for pixels in (PHOTO[:40, :40], PHOTO[40:80, :40])]
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    return file.getvalue()


# By file name: the content, and what the error says.
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "the file is empty"),
    "one_byte.png": (b"\x89", "not an image"),
    "text.jpg": (b"this is a text\n" * 50, "not an image"),
    "page.png": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
    "paper.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not an image"),
    "archive.webp": (b"PK\x03\x04" + bytes(100), "not an image"),
    "zeros.jpg": (bytes(5000), "not an image"),
    "only_the_start.jpg": (b"\xff\xd8\xff\xe0", "damaged JPEG"),
    "cut_10.jpg": (cut("JPEG", 0.1), "damaged JPEG"),
    "cut_50.jpg": (cut("JPEG", 0.5), "damaged JPEG"),
    "cut_99.jpg": (cut("JPEG", 0.99), "damaged JPEG"),
    "cut_50.png": (cut("PNG", 0.5), "truncated"),
    "cut_99.png": (cut("PNG", 0.99), "truncated"),
    "cut_50.gif": (cut("GIF", 0.5), "truncated"),
    "cut_50.bmp": (cut("BMP", 0.5), "truncated"),
    "cut_50.webp": (cut("WEBP", 0.5), "."),
    "cut_50.tif": (cut("TIFF", 0.5), "."),
    "bad_header_checksum.png": (png(64, 64, b"IHDR"), "checksum of IHDR"),
    "bad_data_checksum.png": (png(64, 64, b"IDAT"), "checksum of IDAT"),
    "bomb.png": (png(20000, 20000), "million|exceeds limit"),
    "bomb.jpg": (jpeg_of_size(20000, 20000), "250 million"),
    "bomb.gif": (gif_of_size(65000, 65000), "million|exceeds limit"),
    "bomb.bmp": (bmp_of_size(30000, 30000), "million|exceeds limit"),
    "no_pixels.jpg": (jpeg_of_size(0, 0), "damaged JPEG"),
    "circle.tiff": (tiff_in_a_circle(), "."),
    "no_range.tif": (encoded("TIFF", np.full((8, 8), np.nan, np.float32)), "no defined range"),
}

# By file name: the content, and what is found of it, if anything. All of them are read.
ODD: dict[str, tuple[bytes, str | None]] = {
    "a_png.jpg": (encoded("PNG"), "wrong file extension"),
    "a_jpeg.png": (encoded("JPEG"), "wrong file extension"),
    "frames.gif": (frames(), "multiple frames"),
    "large_text.png": (large_text(), None),
    "version.jpg": (encoded("JPEG").replace(b"JFIF\0\1", b"JFIF\0\x09"), "JPEG warning"),
    "pixel.png": (encoded("PNG", PHOTO[:1, :1]), "tiny"),
    "line.png": (encoded("PNG", np.zeros((1, 60000, 3), np.uint8)), "tiny"),
    "tail.jpg": (encoded("JPEG") + b"and more" * 100, None),
    "n" * 251 + ".jpg": (encoded("JPEG", PHOTO[:200]), None),
    "größe 😀.png": (encoded("PNG", PHOTO[100:]), None),
    "-rf.jpg": (encoded("JPEG", PHOTO[:, :300]), None),
    "line\nbreak.jpg": (encoded("JPEG", PHOTO[:, 200:]), None),
    os.fsdecode(b"not_\xff_utf8.jpg"): (encoded("JPEG", PHOTO[50:150]), None),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    content, reason = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(tmp_path / name, (32, 24))
    assert name in str(caught.value)
    assert "0x" not in str(caught.value)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    # A socket's path may have 107 bytes.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


SPECIAL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe.jpg": (pipe, "not a regular file"),
    "socket.jpg": (a_socket, "No such device"),
    "zeros_for_ever.jpg": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "folder.jpg": (lambda path: path.mkdir(), "Is a directory"),
    "dangling.jpg": (lambda path: path.symlink_to("gone"), "No such file"),
    "itself.jpg": (lambda path: path.symlink_to(path), "Too many levels"),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_file_is_named_and_nothing_waits_for_it(tmp_path: Path, name: str) -> None:
    make, reason = SPECIAL[name]
    make(tmp_path / name)
    with pytest.raises(ImageError, match=reason):
        read_image(tmp_path / name, (32, 24))


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may read all."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.png", 0)
    path.chmod(0)
    with as_an_ordinary_user(), pytest.raises(ImageError, match="Permission denied"):
        read_image(path, (8, 8))


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(ODD[name][0])
    assert read_image(tmp_path / name, (32, 24)).shape == (24, 32, 3)


def test_check_names_all_of_them_and_reads_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, content in {**UNREADABLE, **ODD}.items():
        (folder / name).write_bytes(content[0])
    for name, (make, _) in SPECIAL.items():
        make(folder / name)
    write_image(folder / "folder.jpg" / "inside.png", 1, (64, 48))
    (folder / "circle").symlink_to(folder)
    for seed in range(3):
        write_image(tmp_path / "good" / f"{seed}.png", seed, (64, 48))
    reader = DataReader(tmp_path)
    found: dict[str, list[Finding]] = {}
    for finding in check_images(reader, threads=2):
        found.setdefault(finding.key.removeprefix("bad/"), []).append(finding)
    special = set(SPECIAL) - {"folder.jpg"}
    unreadable = {key for key, findings in found.items() if findings[0].kind == "unreadable"}
    assert unreadable == {*UNREADABLE, *special}
    assert all(finding.exclude for key in unreadable for finding in found[key])
    for name, (_, kind) in ODD.items():
        assert kind is None or kind in [finding.kind for finding in found[name]]
    keys = {reader.key(i) for i in range(len(reader))}
    assert "bad/folder.jpg/inside.png" in keys
    assert not any(key.startswith("bad/circle/") for key in keys)
