"""Image files on a device: the same pixels, orientation and limits as in training."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digits import load_program
from kerakit.data import decode_image, read_image
from kerakit.device import photo
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import ImageError
from mutations import mutate

program = load_program()

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf'
    b'-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"%s/></rdf:RDF>'
)


def half_white(width: int = 120, height: int = 80) -> Image.Image:
    """The left half is white, the right half is black."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 255
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_block(*tags: tuple[int, int, int, bytes], order: str = "<", tail: bytes = b"") -> bytes:
    """EXIF of tags: number, type, count, and the four bytes of their value or offset."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(order + "HHL", *tag[:3]) + tag[3] for tag in sorted(tags))
    count = struct.pack(order + "LH", 8, len(tags))
    return head + count + entries + bytes(4) + tail


def turned(value: int = 6, order: str = "<") -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack(order + "HH", value, 0)


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_with(*segments: bytes) -> bytes:
    jpeg = encode(half_white(), "JPEG", quality=95)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    png = encode(half_white(), "PNG")
    end = png.index(b"IDAT") - 4
    made = b"".join(
        struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
        for name, data in chunks
    )
    return png[:end] + made + png[end:]


def tiff_with(*tags: tuple[int, int, int, bytes], order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF, 120 by 80, uncompressed. ``tail`` is at offset 12,000 + 8 + 2 + 12 entries."""
    size, gray = (120, 80), np.asarray(half_white().convert("L")).tobytes()
    pack = struct.pack
    own = [
        (256, 3, 1, pack(order + "HH", size[0], 0)),
        (257, 3, 1, pack(order + "HH", size[1], 0)),
        (258, 3, 1, pack(order + "HH", 8, 0)),
        (259, 3, 1, pack(order + "HH", 1, 0)),
        (262, 3, 1, pack(order + "HH", 1, 0)),
        (273, 4, 1, pack(order + "L", 8)),
        (278, 3, 1, pack(order + "HH", size[1], 0)),
        (279, 4, 1, pack(order + "L", len(gray))),
    ]
    entries = sorted([*own, *tags])
    head = (b"II*\0" if order == "<" else b"MM\0*") + pack(order + "L", 8 + len(gray))
    body = b"".join(pack(order + "HHL", *tag[:3]) + tag[3] for tag in entries)
    return head + gray + pack(order + "H", len(entries)) + body + bytes(4) + tail


def both(data: bytes, folder: Path, size: tuple[int, int] = (32, 32)) -> tuple[Any, Any]:
    """Pixels in training and on the device."""
    path = folder / "photo"
    path.write_bytes(data)
    return read_image(path, size), program.read_photo(path, size[1], size[0])


def is_top_white(pixels: Any) -> bool:
    return bool(pixels[:8].mean() > 200 and pixels[-8:].mean() < 60)


APP1_XMP = b"http://ns.adobe.com/xap/1.0/\0"
BIG = segment(0xE2, b"MPF\0" + bytes(65000)) + segment(0xE2, b"ICC" + bytes(65000))
EXIF = exif_block(turned())
WRONG_MAKE = (0x010F, 11, 1, struct.pack("<f", 1.5))
ATTRIBUTE, ELEMENT = XMP % b' tiff:Orientation="6"', XMP % b"><tiff:Orientation>6</tiff:Orientation"
HEX = f"\nexif\n{len(EXIF) + 6:8}\n{(b'Exif' + bytes(2) + EXIF).hex()}\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(segment(0xE1, b"Exif\0\0" + EXIF)),
        jpeg_with(segment(0xE1, b"Exif\0\0" + exif_block(turned(order=">"), order=">"))),
        jpeg_with(BIG, segment(0xE1, b"Exif\0\0" + EXIF)),
        jpeg_with(b"\0\0\0", segment(0xE1, b"Exif\0\0" + EXIF), b"\xff\xff\xff"),
        jpeg_with(segment(0xE1, APP1_XMP + ATTRIBUTE)),
        jpeg_with(segment(0xE1, APP1_XMP + ATTRIBUTE.replace(b'="6"', b" = '6'"))),
        jpeg_with(BIG, segment(0xE1, APP1_XMP + ELEMENT)),
        jpeg_with(
            segment(0xE1, b"Exif\0\0" + exif_block(WRONG_MAKE)), segment(0xE1, APP1_XMP + ATTRIBUTE)
        ),
        jpeg_with(
            segment(0xE1, APP1_XMP + ATTRIBUTE.replace(b"6", b"3")),
            segment(0xE1, b"Exif\0\0" + EXIF),
        ),
        jpeg_with(segment(0xE1, b"Exif\0\0" + exif_block(WRONG_MAKE, turned()))),
        jpeg_with(segment(0xE1, b"Exif\0\0" + exif_block((0x0112, 4, 1, b"\6\0\0\0")))),
        png_with((b"eXIf", EXIF)),
        png_with((b"eXIf", exif_block(WRONG_MAKE, turned()))),
        png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + ATTRIBUTE)),
        png_with((b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26))), (b"eXIf", EXIF)),
        png_with((b"iTXt", b"Comment\0\0\0\0\0" + bytes(2**22)), (b"eXIf", EXIF)),
        png_with((b"iCCP", b"profile\0\0no zlib"), (b"acTL", b"\xff"), (b"eXIf", EXIF)),
        png_with((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX))),
        encode(half_white(), "WEBP", exif=b"Exif\0\0" + EXIF, quality=95),
        encode(half_white(), "WEBP", exif=exif_block(WRONG_MAKE, turned()), quality=95),
        encode(half_white(), "WEBP", xmp=ELEMENT, quality=95),
        encode(half_white(), "AVIF", exif=EXIF, quality=95),
        tiff_with(turned()),
        tiff_with(turned(order=">"), order=">"),
        tiff_with(turned(), WRONG_MAKE),
        tiff_with((700, 1, len(ATTRIBUTE), struct.pack("<L", 9614 + 9 * 12)), tail=ATTRIBUTE),
        encode(half_white(), "TIFF", compression="tiff_lzw", exif=b"Exif\0\0" + EXIF),
        encode(half_white().convert("CMYK"), "JPEG", exif=b"Exif\0\0" + EXIF, quality=95),
        encode(
            half_white(),
            "MPO",
            save_all=True,
            append_images=[half_white()],
            exif=b"Exif\0\0" + EXIF,
        ),
    ],
)
def test_an_orientation_is_found_wherever_it_is(data: bytes, tmp_path: Path) -> None:
    here, there = both(data, tmp_path)
    assert is_top_white(here)
    assert is_top_white(there)


# TIFF's types, and 0 and 13 to 200, which are none.
TAG = st.tuples(
    st.integers(0, 0xFFFF).filter(
        lambda tag: tag not in (0x0112, 700, *range(254, 300), *range(317, 345), 530)
    ),
    st.one_of(st.integers(0, 13), st.integers(14, 0xFFFF)),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.binary(min_size=4, max_size=4),
)
USUAL = st.tuples(
    st.sampled_from(
        [0x010E, 0x010F, 0x0110, 0x011A, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825, 0xA005]
    ),
    st.integers(0, 13),
    st.integers(0, 9),
    st.binary(min_size=4, max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(
    tags=st.lists(st.one_of(TAG, USUAL), max_size=4, unique_by=lambda tag: tag[0]),
    orientation=st.integers(1, 8),
    order=st.sampled_from("<>"),
    cut=st.integers(0, 12),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_other_tags_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, tags: Any, orientation: int, order: str, cut: int
) -> None:
    exif = exif_block(turned(orientation, order), *tags, order=order)
    # Tags behind it are cut off; the orientation is whole.
    whole = 10 + 12 * (1 + sum(tag[0] < 0x0112 for tag in tags))
    exif = exif[: max(whole, len(exif) - cut)]
    expected = photo.turn_upright(decode_image(encode(half_white(), "PNG"), (120, 80)), orientation)
    for data in (
        jpeg_with(segment(0xE1, b"Exif\0\0" + exif)),
        png_with((b"eXIf", exif)),
        encode(half_white(), "WEBP", exif=exif, lossless=True),
        tiff_with(turned(orientation, order), *tags, order=order),
    ):
        size = expected.shape[1::-1]
        for pixels in both(data, tmp_path_factory.getbasetemp(), size):
            assert np.abs(pixels.astype(int) - expected).max() <= 3


def png16(color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits: gray (0), RGB (2), gray with alpha (4), RGBA (6); a ramp, 16 by 16."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    ramp = np.linspace(0, 65535, 256).astype(">u2").reshape(16, 16, 1)
    rows = np.repeat(ramp, channels, 2).reshape(16, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    made = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">LLBBBBB", 16, 16, 16, color, 0, 0, 0)
    for name, content in ((b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")):
        made += struct.pack(">L", len(content)) + name + content
        made += struct.pack(">L", zlib.crc32(name + content))
    return made


def ramp16(order: str) -> Image.Image:
    values = np.linspace(0, 65535, 256).astype(order + "u2").reshape(16, 16)
    return Image.frombytes("I;16" if order == "<" else "I;16B", (16, 16), values.tobytes())


def ramp(mode: str) -> Image.Image:
    """A ramp of gray; of a palette, index 7 is transparent."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return Image.fromarray(np.stack([values] * 3, 2)).convert(mode)


GRAY = np.arange(256).reshape(16, 16)


def seen_through(alpha: Any) -> Any:
    """The gray ramp on white."""
    return np.round(GRAY * (alpha / 255) + 255 - alpha)


def with_alpha(mode: str) -> Image.Image:
    image = ramp("RGB").convert("RGBA")
    image.putalpha(Image.fromarray(GRAY.T.astype(np.uint8)))
    return image.convert(mode)


MODES = {
    "1 PNG": (encode(ramp("1"), "PNG"), np.asarray(ramp("1").convert("L"))),
    "L PNG": (encode(ramp("L"), "PNG"), GRAY),
    "L PNG transparent": (encode(ramp("L"), "PNG", transparency=7), np.where(GRAY == 7, 255, GRAY)),
    "P PNG": (encode(ramp("L").convert("P"), "PNG"), GRAY),
    "P PNG transparent": (
        encode(ramp("L").convert("P"), "PNG", transparency=7),
        np.where(GRAY == 7, 255, GRAY),
    ),
    "P PNG alpha": (
        encode(ramp("L").convert("P"), "PNG", transparency=bytes(range(256))),
        seen_through(GRAY),
    ),
    "LA PNG": (encode(with_alpha("LA"), "PNG"), seen_through(GRAY.T)),
    "RGB PNG transparent": (
        encode(ramp("RGB"), "PNG", transparency=(7, 7, 7)),
        np.where(GRAY == 7, 255, GRAY),
    ),
    "RGBA PNG": (encode(with_alpha("RGBA"), "PNG"), seen_through(GRAY.T)),
    "RGBA WebP": (
        encode(with_alpha("RGBA"), "WEBP", lossless=True, exact=True),
        seen_through(GRAY.T),
    ),
    "RGBA TIFF": (encode(with_alpha("RGBA"), "TIFF"), seen_through(GRAY.T)),
    "P GIF transparent": (
        encode(ramp("L").convert("P"), "GIF", transparency=7),
        np.where(GRAY == 7, 255, GRAY),
    ),
    "CMYK TIFF": (encode(ramp("CMYK"), "TIFF"), GRAY),
    "CMYK JPEG": (encode(ramp("CMYK"), "JPEG", quality=100), GRAY),
    "YCbCr JPEG": (encode(ramp("YCbCr"), "JPEG", quality=100, subsampling=0), GRAY),
    "YCbCr TIFF": (encode(ramp("YCbCr"), "TIFF"), GRAY),
    "16-bit gray PNG": (png16(0), GRAY),
    "16-bit gray PNG transparent": (png16(0, (b"tRNS", b"\7\7")), np.where(GRAY == 7, 255, GRAY)),
    "16-bit RGB PNG": (png16(2), GRAY),
    "16-bit RGB PNG transparent": (
        png16(2, (b"tRNS", b"\7\7" * 3)),
        np.where(GRAY == 7, 255, GRAY),
    ),
    "16-bit LA PNG": (png16(4), seen_through(GRAY)),
    "16-bit RGBA PNG": (png16(6), seen_through(GRAY)),
    "I;16 TIFF": (encode(ramp16("<"), "TIFF"), GRAY),
    "I;16B TIFF": (encode(ramp16(">"), "TIFF"), GRAY),
    "16-bit PGM": (b"P5 16 16 65535\n" + ramp16(">").tobytes(), GRAY),
    "PPM": (encode(ramp("RGB"), "PPM"), GRAY),
    "L BMP": (encode(ramp("L"), "BMP"), GRAY),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_has_the_same_pixels(name: str, tmp_path: Path) -> None:
    data, expected = MODES[name]
    here, there = both(data, tmp_path, (16, 16))
    assert np.abs(here.astype(int) - expected[:, :, None]).max() <= 2
    assert np.abs(here.astype(int) - there).max() <= ("CMYK JPEG" in name)


@pytest.mark.parametrize("transform", range(4))
def test_a_cmyk_jpeg_of_any_transform_is_read(transform: int, tmp_path: Path) -> None:
    data = encode(ramp("CMYK"), "JPEG", quality=100)
    at = data.index(b"Adobe") + 11
    here, there = both(data[:at] + bytes([transform]) + data[at + 1 :], tmp_path, (16, 16))
    assert np.abs(here.astype(int) - there).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(2000, 3), (1, 5000), (3, 900), (5000, 1), (1, 1)])
def test_a_side_that_grows_and_one_that_shrinks(
    shape: tuple[int, int], kind: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind, quality=95)
    here, there = both(data, tmp_path, (32, 24))
    assert here.shape == there.shape == (24, 32, 3)
    assert np.abs(here.astype(int) - there).max() <= 12
    if max(shape) > 1:  # averaged, so that single pixels do not remain
        assert here.std() < noise.std() / 2


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((900, 640), (64, 48)),  # not divided by whole numbers
        ((143, 616), (149, 134)),  # one side alone is averaged
        ((1001, 37), (9, 100)),
        ((240, 320), (40, 30)),  # by whole numbers: half of the ties are rounded down
        ((28, 28), (7, 4)),
        ((5, 5), (1, 1)),
    ],
)
def test_areas_are_averaged_as_in_training(
    shape: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    here, there = both(encode(Image.fromarray(noise), "PNG"), tmp_path, size)
    difference = np.abs(here.astype(int) - there)
    assert difference.max() <= 1
    assert difference.mean() <= 0.01


def jpeg_segment_at(data: bytes) -> int:
    """The start of the segment of the frame."""
    return data.index(b"\xff\xc0")


@pytest.mark.parametrize(
    "inserted",
    [
        b"\xff\xd8",  # a second begin of the image
        b"\xff\xd8\xff\xd8",
        b"\0\xff\xd8",
        b"\xff\xe5\0\0",  # segments of an impossible length
        b"\xff\xfe\0\1",
        b"\xff\xff\xff",
        b"\xff\0",
        b"\0\r\n",
        b"\xff\xd0\xff\x01",
        b"\xff\xdc\0\4\0\x50",
    ],
)
@pytest.mark.parametrize("place", ["begin", "frame", "scan"])
def test_superfluous_bytes_in_a_jpeg_are_skipped(
    inserted: bytes, place: str, tmp_path: Path
) -> None:
    data = encode(half_white(), "JPEG", quality=95)
    at = {"begin": 2, "frame": jpeg_segment_at(data), "scan": data.index(b"\xff\xda")}[place]
    here, there = both(data[:at] + inserted + data[at:], tmp_path)
    plain, _ = both(data, tmp_path)
    np.testing.assert_array_equal(here, plain)
    np.testing.assert_array_equal(there, plain)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("tail", [b"", b"\xff", bytes(100)])
@pytest.mark.parametrize("cut", [2, 10, 200])
def test_a_jpeg_that_is_cut_off_is_an_error(
    cut: int, tail: bytes, mode: str, tmp_path: Path
) -> None:
    data = encode(half_white().convert(mode), "JPEG", quality=95)
    refused(data[:-cut] + tail, tmp_path, "damaged JPEG")


def test_what_follows_a_jpeg_is_ignored(tmp_path: Path) -> None:
    data = encode(half_white(), "JPEG", quality=95)
    plain, _ = both(data, tmp_path)
    for tail in (b"hello", data[: len(data) // 2], encode(half_white().rotate(90), "JPEG")):
        for pixels in both(data + tail, tmp_path):
            np.testing.assert_array_equal(pixels, plain)


def test_a_png_of_another_checksum_is_an_error(tmp_path: Path) -> None:
    data = encode(half_white(), "PNG")
    at = data.index(b"IEND") - 8  # the checksum of the pixels
    refused(data[:at] + bytes(4) + data[at + 4 :], tmp_path, "damaged PNG")
    refused(data[: data.index(b"IEND")], tmp_path, "damaged PNG")


@pytest.mark.parametrize("width", [1, 5, 24, 121])
@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "tiff_raw_16"])
def test_a_fax_has_its_pixels_or_is_an_error(compression: str, width: int, tmp_path: Path) -> None:
    pattern = np.random.default_rng(width).random((40, width)) > 0.5
    for tags in ({}, {262: 0}, {266: 2}, {278: 7}):
        data = encode(Image.fromarray(pattern), "TIFF", compression=compression, tiffinfo=tags)
        if compression.startswith("group"):
            for pixels in both(data, tmp_path, (width, 40)):
                np.testing.assert_array_equal(pixels[:, :, 0] > 0, pattern)
        else:  # libtiff loses its place in the rows
            refused(data, tmp_path, "CCITT RLE compression is not supported")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_file_is_an_error_on_both_sides_or_has_the_same_pixels(
    kind: str, tmp_path: Path
) -> None:
    """JPEGs whose scan is damaged are the exception: Pillow does not report it."""
    data = encode(half_white(60, 40), kind)
    path = tmp_path / "photo"
    for seed in range(60):
        path.write_bytes(mutate(data, seed))
        outcomes: list[Any] = []
        for read in (
            lambda: read_image(path, (32, 24)),
            lambda: program.read_photo(path, 24, 32),
        ):
            try:
                outcomes.append(read())
            except (ImageError, program.InputError):
                outcomes.append(None)
        here, there = outcomes
        assert (here is None) == (there is None), seed
        if here is not None:
            assert np.abs(here.astype(int) - there).max() <= 1, seed


@pytest.mark.parametrize("policy", [Preprocessing(), Preprocessing(resize="letterbox")])
def test_a_jpeg_without_a_height_is_an_error(policy: Preprocessing, tmp_path: Path) -> None:
    data = encode(half_white(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:at] + b"\0\0" + data[at + 2 :])
    with pytest.raises(ImageError, match="damaged JPEG"):
        read_image(path, (32, 32), policy)
    with pytest.raises(program.InputError, match=r"photo\.jpg"):
        program.read_photo(path, 32, 32, policy)


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
        encode(Image.fromarray(np.ones((9, 9), np.int32)), "TIFF"),
    ],
)
def test_pixels_without_a_range_are_an_error(data: bytes, tmp_path: Path) -> None:
    refused(data, tmp_path, "have no defined range")


def refused(data: bytes, folder: Path, reason: str) -> None:
    path = folder / "photo"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        read_image(path, (32, 32))
    with pytest.raises(program.InputError, match=reason):
        program.read_photo(path, 32, 32)


def blank(kind: str, width: int, height: int) -> bytes:
    """A small file of many black pixels."""
    if kind == "PNG":
        row = zlib.compressobj(9)
        data = b"".join([*(row.compress(bytes(1 + width)) for _ in range(height)), row.flush()])
        made = b"\x89PNG\r\n\x1a\n"
        head = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
        for name, content in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b"")):
            made += struct.pack(">L", len(content)) + name + content
            made += struct.pack(">L", zlib.crc32(name + content))
        return made
    if kind == "GIF":
        small = bytearray(encode(Image.new("L", (8, 8)), "GIF"))
        small[6:10] = struct.pack("<HH", width, height)
        return bytes(small)
    if kind == "JPEG":
        small = bytearray(encode(Image.new("L", (8, 8)), "JPEG"))
        at = small.index(b"\xff\xc0")
        small[at + 5 : at + 9] = struct.pack(">HH", height, width)
        return bytes(small)
    if kind == "TIFF":
        tags = ((256, width), (257, height), (258, 8), (262, 1), (273, 8), (278, height), (279, 8))
        return exif_block(*((tag, 4, 1, struct.pack("<L", value)) for tag, value in tags))
    small = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    bits = int.from_bytes(small[21:25], "little") >> 28 << 28  # VP8L: 14 bits per side
    small[21:25] = (bits | (height - 1) << 14 | width - 1).to_bytes(4, "little")
    return bytes(small)


@pytest.mark.parametrize(
    ("kind", "width", "height", "limit"),
    [
        ("PNG", 20_000, 5_001, 100),
        ("WEBP", 16_000, 6_251, 100),
        ("GIF", 65_535, 65_535, 100),
        ("TIFF", 100_000, 1_001, 100),
        ("TIFF", 2**31, 2**31, 100),
        ("JPEG", 65_000, 65_000, 250),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_an_error(
    kind: str, width: int, height: int, limit: int, tmp_path: Path
) -> None:
    refused(blank(kind, width, height), tmp_path, f"limit of {limit} million|exceeds limit")


def test_a_large_image_is_converted_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(with_alpha("RGBA"), "PNG")
    whole = photo.decode(data, 16, 16)
    monkeypatch.setattr(photo, "_STRIP_PIXELS", 50)
    np.testing.assert_array_equal(photo.decode(data, 16, 16), whole)
