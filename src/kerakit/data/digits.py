"""Real data that needs no download: the handwritten digits that come with scikit-learn."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_digits(folder: Path) -> None:
    """Write 1,797 handwritten digits as PNG files, grey, 8 by 8 pixels, one folder a digit.

    Source: UCI, "Optical Recognition of Handwritten Digits", test set (E. Alpaydin, C. Kaynak, 1998), as
    ``sklearn.datasets.load_digits`` brings it; its values from 0 to 16 become 0 to 255.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        of_class = folder / str(digit)
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(
            of_class / f"{i:04d}.png"
        )
