"""Sample dataset that needs no download: the handwritten digits of scikit-learn."""

from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image


def write_digits(folder: Path, count: int = 1797) -> None:
    """Write up to 1,797 handwritten digits as PNG files, gray, 8 by 8 pixels, one folder per digit.

    Source: UCI, "Optical Recognition of Handwritten Digits", test set (E. Alpaydin, C. Kaynak,
    1998), from ``sklearn.datasets.load_digits``; its values from 0 to 16 are scaled to 0 to 255.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pairs = zip(digits.images, digits.target, strict=True)
    for i, (pixels, digit) in enumerate(islice(pairs, count)):
        class_folder = folder / str(digit)
        class_folder.mkdir(parents=True, exist_ok=True)
        gray = np.round(pixels * (255 / 16)).astype(np.uint8)
        Image.fromarray(gray).save(class_folder / f"{i:04d}.png")
