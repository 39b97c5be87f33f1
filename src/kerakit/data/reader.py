"""What there is to read: a folder of images in one folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kerakit.data.decode import ENDINGS
from kerakit.data.split import MODES, Mode, assign
from kerakit.errors import UserError

# Folders of a given split, by the names that data sets use.
_SPLIT_FOLDERS: dict[str, Mode] = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


class Reader(Protocol):
    """What a BatchGenerator asks of a reader. Nothing is decoded here."""

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""

    def key(self, i: int) -> str:
        """Return the name of image ``i``: it stays the same when images are added, and seeds all that is random of it."""

    def image_path(self, i: int) -> Path:
        """Return where image ``i`` lies."""

    def target(self, i: int) -> object:
        """Return what the model is to answer for image ``i``."""

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the indices of the images of one split, ascending, shape (n,)."""


class FolderReader:
    """The images of a folder with one folder a class, or with ``train/``, ``validation/`` (``val/``), ``test/`` of such.

    Classes are numbered in the order of their names. A given split is kept. What is not given is drawn from the training
    images by a hash of each image's path, so that adding images moves none (see ``kerakit.data.split``).

    Args:
        data_dir: the folder.
        train_ratio: share of the images to train on where no split is given, in (0, 1); the rest is halved into
            validation and test. With ``train/`` alone both are drawn from it; with ``train/`` and ``test/`` the rest
            is for validation.
        seed: of the drawn split.

    Attributes:
        class_names: in the order of the targets.
        targets: int32 (n,), the index of each image's class.

    Raises:
        UserError: no such folder, no images, fewer than two classes, a class without images.
    """

    def __init__(self, data_dir: Path | str, train_ratio: float = 0.8, seed: int = 0) -> None:
        self.data_dir = Path(data_dir)
        if not self.data_dir.is_dir():
            raise UserError(f"there is no folder {self.data_dir}. Expected a folder with one folder of images a class.")
        split_folders = {name: mode for name, mode in _SPLIT_FOLDERS.items() if (self.data_dir / name).is_dir()}
        if "train" not in split_folders.values():
            split_folders = {}
        roots = sorted(split_folders) or ["."]
        self.class_names = self._find_classes(roots, trained_in="train" if split_folders else ".")
        self._keys: list[str] = []
        targets: list[int] = []
        splits: list[int] = []
        for root in roots:
            for target, name in enumerate(self.class_names):
                keys = [f"{root}/{name}/{file}".removeprefix("./") for file in _images_below(self.data_dir / root / name)]
                self._keys += keys
                targets += [target] * len(keys)
                splits += [MODES.index(split_folders.get(root, "train"))] * len(keys)
        self.targets = np.asarray(targets, np.int32)
        self._splits = np.asarray(splits, np.int8)
        self._refuse_empty_classes()
        self._draw_what_is_not_given(train_ratio, seed)

    # ------------------------------------------------------------------------------------------------------- for users

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def image_paths(self) -> list[Path]:
        """The path of every image, in the order of ``targets``."""
        return [self.data_dir / key for key in self._keys]

    def key(self, i: int) -> str:
        """Return the path of image ``i`` below the data folder, with ``/``."""
        return self._keys[i]

    def image_path(self, i: int) -> Path:
        """Return the path of image ``i``."""
        return self.data_dir / self._keys[i]

    def target(self, i: int) -> np.int32:
        """Return the index of the class of image ``i``."""
        return np.int32(self.targets[i])

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the indices of the images of ``mode``, ascending, shape (n,)."""
        if mode not in MODES:
            raise UserError(f"mode {mode!r} is unknown; expected one of {', '.join(MODES)}.")
        return np.flatnonzero(self._splits == MODES.index(mode))

    def held_out(self) -> Mode:
        """Return "test" where there are such images, else "val"."""
        return "test" if len(self.indices("test")) else "val"

    def expect_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise UserError unless the classes are these: a model's outputs mean nothing for others."""
        if self.class_names != tuple(class_names):
            raise UserError(
                f"{self.data_dir} has the classes {', '.join(self.class_names)}; the model was trained on "
                f"{', '.join(class_names)}. Give the folder that it was trained on with --data_dir."
            )

    # ------------------------------------------------------------------------------------------------------- internals

    def _find_classes(self, roots: list[str], trained_in: str) -> tuple[str, ...]:
        classes = {root: _folders_in(self.data_dir / root) for root in roots}
        names = tuple(classes[trained_in])
        where = self.data_dir / trained_in
        if not names:
            hint = " It holds images: move them into one folder a class." if any(_images_in(where)) else ""
            raise UserError(f"{where} has no folders. Expected one folder of images a class.{hint}")
        if len(names) < 2:
            raise UserError(f"{where} has one class ({names[0]}). Expected at least two folders, one a class.")
        for root, found in classes.items():
            if unknown := sorted(set(found) - set(names)):
                raise UserError(
                    f"{self.data_dir / root} has the class {unknown[0]!r}, which {where} lacks. "
                    "Rename that folder, or add training images of the class."
                )
        if bad := next((name for name in names if not name.isprintable()), None):
            raise UserError(f"{where} has the class {bad!r}: line breaks and control characters don't fit into labels.txt.")
        return names

    def _refuse_empty_classes(self) -> None:
        counts = np.bincount(self.targets[self._splits == MODES.index("train")], minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        if len(empty) == len(self.class_names):
            raise UserError(f"{self.data_dir} has no images in its class folders. Expected files such as .jpg or .png.")
        if empty:
            raise UserError(
                f"the class {empty[0]!r} in {self.data_dir} has no training images. Add some, or remove its folder."
            )

    def _draw_what_is_not_given(self, train_ratio: float, seed: int) -> None:
        """Move training images to the splits that the folder does not give."""
        given = {MODES[i] for i in np.unique(self._splits)}
        if "val" in given:
            return
        for i in np.flatnonzero(self._splits == MODES.index("train")):
            drawn = assign(self._keys[i], seed, train_ratio)
            self._splits[i] = MODES.index("val" if drawn == "test" and "test" in given else drawn)


def _folders_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if (folder / name).is_dir() and not _is_hidden(name))


def _images_in(folder: Path) -> Iterator[str]:
    return (name for name in os.listdir(folder) if Path(name).suffix.lower() in ENDINGS)


def _images_below(folder: Path) -> list[str]:
    """Return the paths of the images below ``folder``, relative to it, sorted; folders and links are followed once."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        below = Path(parent).relative_to(folder)
        found += [(below / name).as_posix() for name in files if Path(name).suffix.lower() in ENDINGS and not _is_hidden(name)]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is the file system's or an archiver's, not the user's."""
    return name.startswith(".") or name == "__MACOSX"
