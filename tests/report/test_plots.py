"""Grids of images."""

from __future__ import annotations

import numpy as np

from kerakit.report.plots import ROW_HEIGHT, image_grid


def test_every_image_is_in_the_grid() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [np.full((12, 16, 3), color, np.uint8) for color in colors]
    grid = np.asarray(image_grid(images, ["a", "b", "c"], columns=2))
    assert grid.shape == (2 * ROW_HEIGHT, 320, 3)
    for color in colors:
        assert (grid == color).all(-1).sum() > 10_000
