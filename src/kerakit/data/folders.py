"""Datasets with one folder per class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from kerakit.data.decode import IMAGE_EXTENSIONS
from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.data.split import MODES, SPLIT_NAMES
from kerakit.errors import UserError


def index_folder(folder: Path) -> ImageIndex:
    """Return the index of a folder with one folder per class, optionally in a folder per split.

    Raises:
        UserError: no such folder, fewer than two classes, a class without a training folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}. Expected a folder with one folder of images per class, "
            "or a table of images. Set it with --data_dir, or DATA_DIR in config.py (for kerakit "
            "new: --data)."
        )
    given = {name: mode for name, mode in SPLIT_NAMES.items() if (folder / name).is_dir()}
    if len(set(given.values())) < len(given):
        raise UserError(
            f"{folder} has two folders for one split: {', '.join(given)}. Keep one folder per "
            "split."
        )
    roots = sorted(given) if "train" in given else ["."]
    class_names = _find_classes(folder, roots, training_root="train" if "train" in given else ".")
    keys: list[str] = []
    counts: list[tuple[int, int, int]] = []
    for root in roots:
        split = MODES.index(given[root]) if "train" in given else UNASSIGNED
        for target, name in enumerate(class_names):
            found = [
                f"{root}/{name}/{file}".removeprefix("./")
                for file in list_images(folder / root / name)
            ]
            keys += found
            counts.append((target, split, len(found)))
    targets, splits, lengths = np.array(counts).T
    return ImageIndex(
        folder,
        pa.array([os.fsencode(key) for key in keys], pa.binary()),
        np.repeat(targets, lengths).astype(np.int32),
        class_names,
        np.repeat(splits, lengths).astype(np.int8),
    )


def _find_classes(folder: Path, roots: list[str], training_root: str) -> tuple[str, ...]:
    classes = {root: _folders_in(folder / root) for root in roots}
    names = tuple(classes[training_root])
    where = folder / training_root
    if not names:
        hint = " It has images: move them into one folder per class." if _has_images(where) else ""
        raise UserError(f"{where} has no folders. Expected one folder of images per class.{hint}")
    if len(names) < 2:
        raise UserError(
            f"{where} has one class ({names[0]}). Expected at least two folders, one per class."
        )
    for root, found in classes.items():
        if unknown := sorted(set(found) - set(names)):
            raise UserError(
                f"{folder / root} has the class {unknown[0]!r}, but {where} does not. "
                "Rename that folder, or add training images of the class."
            )
    check_printable(names, where)
    return names


def check_printable(names: tuple[str, ...], where: Path) -> None:
    """Raise UserError if a class name has characters that labels.txt cannot represent."""
    if unprintable := next((name for name in names if not name.isprintable()), None):
        raise UserError(
            f"{where} has the class {unprintable!r}: labels.txt cannot represent line breaks and "
            "control characters. Rename it."
        )


def _folders_in(folder: Path) -> list[str]:
    return sorted(
        name for name in os.listdir(folder) if (folder / name).is_dir() and not is_hidden(name)
    )


def _has_images(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in IMAGE_EXTENSIONS for name in os.listdir(folder))


def list_images(folder: Path) -> list[str]:
    """Return the relative paths of the images below ``folder``, sorted; links are followed once."""
    found: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        relative = Path(parent).relative_to(folder)
        found += [
            (relative / name).as_posix()
            for name in files
            if Path(name).suffix.lower() in IMAGE_EXTENSIONS and not is_hidden(name)
        ]
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or made by an archiver."""
    return name.startswith(".") or name == "__MACOSX"
