"""The reader: the list of images and their annotations. Images are decoded in datagen.py."""

from collections.abc import Sequence
from pathlib import Path

import config
from kerakit import data


class DataReader(data.KeypointReader):
    """The images of DATA_DIR, each with the points of one object.

    COCO, YOLO pose, LabelMe, or a table with columns such as nose_x and nose_y.

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
        super().__init__(data_dir, train_ratio, seed, exclusions)
