"""What there is to read. Nothing is decoded here: see datagen.py."""

from __future__ import annotations

from pathlib import Path

import config
import kerakit


class DataReader(kerakit.DataReader):
    """The images of DATA_DIR: ``image_paths``, ``targets``, ``class_names``; ``indices(mode)`` gives a split.

        for path in DataReader().image_paths:
            image = PIL.Image.open(path)

    To read another kind of data, write a class with ``class_names``, ``__len__``, ``key(i)``, ``image_path(i)``, ``target(i)``
    and ``indices(mode)``; ``kerakit.data.reader.Reader`` says what each returns.
    """

    def __init__(
        self,
        data: Path | str = config.DATA_DIR,
        train_ratio: float = config.TRAIN_RATIO_DEFAULT,
        seed: int = config.RANDOM_SEED_DEFAULT,
    ) -> None:
        super().__init__(data, train_ratio, seed, exclusions=config.EXCLUSIONS)
