"""Images in one folder a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from kerakit.data.decode import IMAGE_EXTENSIONS
from kerakit.data.reader import UNASSIGNED, ImageIndex
from kerakit.data.split import MODES, Mode
from kerakit.errors import UserError

# Folders of a given split, by the names that data sets use.
_SPLIT_FOLDERS: dict[str, Mode] = {
    "train": "train",
    "validation": "val",
    "val": "val",
    "valid": "val",
    "test": "test",
}


def index_folder(folder: Path) -> ImageIndex:
    """List a folder with one folder a class, or with ``train/``, ``validation/``, ``test/`` of such.

    Raises:
        UserError: no such folder, fewer than two classes, classes that training lacks.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}. Expected a folder with one folder of images a class, or a table of them. Name it "
            "with --data_dir, or in DATA_DIR of config.py (for kerakit new: --data)."
        )
    given = {name: mode for name, mode in _SPLIT_FOLDERS.items() if (folder / name).is_dir()}
    if len(set(given.values())) < len(given):
        raise UserError(
            f"{folder} gives a split twice: {', '.join(given)}. Keep one folder for each."
        )
    roots = sorted(given) if "train" in given else ["."]
    class_names = _find_classes(folder, roots, trained_in="train" if "train" in given else ".")
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


def _find_classes(folder: Path, roots: list[str], trained_in: str) -> tuple[str, ...]:
    classes = {root: _folders_in(folder / root) for root in roots}
    names = tuple(classes[trained_in])
    where = folder / trained_in
    if not names:
        hint = (
            " It holds images: move them into one folder a class." if _holds_images(where) else ""
        )
        raise UserError(f"{where} has no folders. Expected one folder of images a class.{hint}")
    if len(names) < 2:
        raise UserError(
            f"{where} has one class ({names[0]}). Expected at least two folders, one a class."
        )
    for root, found in classes.items():
        if unknown := sorted(set(found) - set(names)):
            raise UserError(
                f"{folder / root} has the class {unknown[0]!r}, which {where} lacks. "
                "Rename that folder, or add training images of the class."
            )
    check_printable(names, where)
    return names


def check_printable(names: tuple[str, ...], where: Path) -> None:
    """Raise UserError where the name of a class would break labels.txt."""
    if bad := next((name for name in names if not name.isprintable()), None):
        raise UserError(
            f"{where} has the class {bad!r}: line breaks and control characters don't fit into labels.txt."
        )


def _folders_in(folder: Path) -> list[str]:
    return sorted(
        name for name in os.listdir(folder) if (folder / name).is_dir() and not is_hidden(name)
    )


def _holds_images(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in IMAGE_EXTENSIONS for name in os.listdir(folder))


def list_images(folder: Path) -> list[str]:
    """Return the paths of the images below ``folder``, relative to it, sorted; folders and links are followed once."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        below = Path(parent).relative_to(folder)
        found += [
            (below / name).as_posix()
            for name in files
            if Path(name).suffix.lower() in IMAGE_EXTENSIONS and not is_hidden(name)
        ]
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the file system's or an archiver's, not the user's."""
    return name.startswith(".") or name == "__MACOSX"
