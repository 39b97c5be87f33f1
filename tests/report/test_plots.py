"""Pictures of batches."""

import subprocess
import sys

import numpy as np
from PIL import Image

from kerakit.report.plots import image_grid
from projects import Project


def test_every_image_is_in_the_grid() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [np.full((12, 16, 3), colour, np.uint8) for colour in colours]
    picture = np.asarray(image_grid(images, ["a", "b", "c"], columns=2))
    for colour in colours:
        assert (picture == colour).all(-1).sum() > 10_000


def test_a_project_draws_its_batches(project: Project) -> None:
    draw = "import datagen, reader; datagen.BatchGenerator(reader.DataReader(), 'train', 6, (16, 12)).visualize(0, 'batch.png')"
    subprocess.run([sys.executable, "-c", draw], cwd=project.path, check=True, capture_output=True)
    with Image.open(project.path / "batch.png") as picture:
        assert picture.size == (6 * 160, 178)
