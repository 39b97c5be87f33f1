"""The reader: the list of images and their annotations. Images are decoded in datagen.py."""

from collections.abc import Sequence
from pathlib import Path

import config
from kerakit import data

# CHANGE: values of masks without a class, besides 255.
IGNORE: tuple[int, ...] = ()


class DataReader(data.MaskReader):
    """The images of DATA_DIR, each with a mask.

    Folders of images and masks, a table with the columns path and mask, or polygons of objects.

    CHANGE: for other data write a class with ``class_names``, ``__len__``, ``key(i)`` (unique),
    ``image_path(i)``, ``target(i)`` and ``indices(mode)``: the protocol ``kerakit.data.Reader``.
    """

    def __init__(
        self,
        data_dir: Path | str = config.DATA_DIR,
        train_ratio: float = config.TRAIN_RATIO_DEFAULT,
        seed: int = config.RANDOM_SEED_DEFAULT,
        exclusions: Path | Sequence[str] | None = config.EXCLUSIONS,
    ) -> None:
        super().__init__(data_dir, train_ratio, seed, exclusions, ignore=IGNORE)
