"""Input sizes that fit datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from kerakit.data import MaskReader
from kerakit.data.sizes import choose_input_size


def write(folder: Path, sizes: list[tuple[int, int]]) -> MaskReader:
    """Write images of these sizes with masks; the first image is damaged."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
        for i, size in enumerate([(8, 8), *sizes]):
            Image.new("L", size, i % 2).save(folder / name / f"{i:02d}.png")
    (folder / "images" / "00.png").write_bytes(b"damaged")
    return MaskReader(folder)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(480, 360)] * 3, (384, 288)),
        ([(360, 480)] * 3, (288, 384)),
        ([(1920, 1080), (1920, 1080), (100, 100)], (416, 224)),
        ([(28, 28)] * 3, (32, 32)),
        ([(4000, 100)] * 3, (448, 224)),
        ([], (320, 320)),
    ],
)
def test_the_input_has_the_shape_of_the_images(
    sizes: list[tuple[int, int]], expected: tuple[int, int], tmp_path: Path
) -> None:
    assert choose_input_size(write(tmp_path, sizes), 100_000) == expected
