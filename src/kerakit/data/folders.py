"""Datasets with one folder per class."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.data.split import MODES, Mode, parse_split
from kerakit.data.walk import WalkReport, list_folders, list_images, list_loose_images
from kerakit.errors import UserError, list_names

_Classes = dict[str, list[str]]
"""Folders of each class."""


def index_folder(folder: Path) -> ImageIndex:
    """Return the index of a folder with one folder per class, optionally in a folder per split.

    Raises:
        UserError: no such folder, fewer than two classes, a class without a training folder, or
            folders that may be splits or classes.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}. Expected a folder with one folder of images per class, "
            "or a table of images. Set it with --data_dir, or DATA_DIR in config.py (for kerakit "
            "new: --data)."
        )
    report = WalkReport(folder)
    splits = _find_splits(folder)
    roots: dict[str, Mode | None] = {".": None} if splits is None else dict(splits)
    training = next((root for root, mode in roots.items() if mode == "train"), ".")
    classes = _find_classes(folder, [*roots], training, report)
    names = tuple(sorted(classes[training]))
    keys: list[str] = []
    counts: list[tuple[int, int, int]] = []
    for root, mode in sorted(roots.items()):
        split = UNASSIGNED if mode is None else MODES.index(mode)
        for target, name in enumerate(names):
            for class_folder in classes[root].get(name, []):
                found = [
                    f"{root}/{class_folder}/{file}".removeprefix("./")
                    for file in list_images(folder / root / class_folder, report)
                ]
                keys += found
                counts.append((target, split, len(found)))
    targets, sides, lengths = np.array(counts).T
    return ImageIndex(
        folder,
        pa.array([os.fsencode(key) for key in keys], pa.binary()),
        np.repeat(targets, lengths).astype(np.int32),
        names,
        np.repeat(sides, lengths).astype(np.int8),
        warnings=(*_warn_of_unused(folder, splits, names), *report.warnings()),
        skipped=tuple(report.others),
    )


def normalize_name(name: str) -> str:
    """Return a label or group without surrounding spaces, in Unicode's form NFC.

    macOS stores names in the form NFD; both look the same.
    """
    return unicodedata.normalize("NFC", name.strip())


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return the class names that differ in case, spaces, hyphens or underscores only, in groups.

    >>> similar_names(["Traffic Light", "traffic_light", "car"])
    [['Traffic Light', 'traffic_light']]
    """
    variants = defaultdict(list)
    for name in names:
        plain = re.sub(r"[\s_\-]+", "", name.casefold())
        # Of signs alone, such as "-" and "_", nothing would be left.
        variants[plain or name].append(name)
    return [same for same in variants.values() if len(same) > 1]


def warn_of_case_variants(names: Iterable[str]) -> list[str]:
    """Return a warning if class names differ in case or spaces only, else an empty list."""
    alike = [" and ".join(map(repr, same)) for same in similar_names(names)]
    return (
        [f"classes whose names differ in case or spaces only: {list_names(alike)}."]
        if alike
        else []
    )


def check_printable(names: tuple[str, ...], where: Path) -> None:
    """Raise UserError if a class name has characters that labels.txt cannot represent."""
    if unprintable := next((name for name in names if not name.isprintable()), None):
        raise UserError(
            f"{where} has the class {unprintable!r}: labels.txt cannot represent line breaks, "
            "control characters, and bytes that are not UTF-8. Rename it."
        )
    if "" in names:
        raise UserError(f"{where} has a class whose name is blank. Rename it.")


def _find_splits(folder: Path) -> dict[str, Mode] | None:
    """Return the mode of each split's folder; None for a folder of classes.

    A split's folder contains the folders of classes, a class folder contains images.
    """
    names = list_folders(folder)
    by_rest: dict[tuple[str, ...], dict[str, Mode]] = defaultdict(dict)
    for name in names:
        mode, rest = parse_split(name)
        if mode:
            by_rest[rest][name] = mode
    # Names with other words, such as seg_train, are splits in pairs only: seg_test.
    pairs = [of for rest, of in by_rest.items() if rest and {"train"} < set(of.values())]
    given = by_rest.get(()) or (pairs[0] if len(pairs) == 1 else {})
    if not given:
        return None
    others = [name for name in names if name not in given]
    inner = {name: list_folders(folder / name) for name in given}
    with_classes = {name: mode for name, mode in given.items() if inner[name]}
    other_classes = [name for name in others if list_images(folder / name)]
    if not with_classes and other_classes:
        return None
    if "train" not in given.values() and other_classes:
        # A class named "test" may have subfolders, but not those of the other classes.
        if not any(set(inner[name]) & set(others) for name in given):
            return None
        raise _ambiguous(folder, given)
    modes = list(with_classes.values())
    if "train" not in modes or (other_classes and len(set(modes)) < 2):
        if list(given.values()) == ["train"] and not other_classes:
            where = folder / next(iter(given))
            raise UserError(
                f"{where} has no folders. Expected one folder of images per class."
                f"{_hint_at_images(where)}"
            )
        raise _ambiguous(folder, given)
    if len(set(given.values())) < len(given):
        raise UserError(
            f"{folder} has two folders for one split: {', '.join(given)}. Keep one folder per "
            "split."
        )
    # Archives often have a folder of the same name inside: seg_train/seg_train/.
    return {
        f"{name}/{inner[name][0]}" if _modes(inner[name]) == [mode] else name: mode
        for name, mode in given.items()
    }


def _modes(names: list[str]) -> list[Mode | None]:
    return [parse_split(name)[0] for name in names]


def _ambiguous(folder: Path, given: dict[str, Mode]) -> UserError:
    return UserError(
        f"{folder}: {list_names([f'{name}/' for name in given])} could be a split or classes. "
        "For a split, put all class folders into train/, and optionally validation/ and test/. For "
        "classes, rename them, or list the images in a table (path, label)."
    )


def _find_classes(
    folder: Path, roots: list[str], training: str, report: WalkReport
) -> dict[str, _Classes]:
    classes: dict[str, _Classes] = {}
    for root in roots:
        by_name: _Classes = defaultdict(list)
        for name in list_folders(folder / root, report):
            by_name[normalize_name(name)].append(name)
        classes[root] = by_name
    names = tuple(sorted(classes[training]))
    where = folder / training
    if not names:
        raise UserError(
            f"{where} has no folders. Expected one folder of images per class."
            f"{_hint_at_images(where)}"
        )
    if len(names) < 2:
        inside = where / classes[training][names[0]][0]
        hint = (
            f" If the classes are the folders in it, pass {inside}."
            if len(list_folders(inside)) > 1
            else ""
        )
        raise UserError(
            f"{where} has one class ({names[0]}). Expected at least two folders, one per class."
            f"{hint}"
        )
    for root, found in classes.items():
        if unknown := sorted(set(found) - set(names)):
            raise UserError(
                f"{folder / root} has the class {unknown[0]!r}, but {where} does not. "
                "Rename that folder, or add training images of the class."
            )
    check_printable(names, where)
    return classes


def _hint_at_images(folder: Path) -> str:
    has_images = list_images(folder)
    return " It has images: move them into one folder per class." if has_images else ""


def _warn_of_unused(
    folder: Path, splits: dict[str, Mode] | None, names: tuple[str, ...]
) -> list[str]:
    """Return warnings of folders and images beside those that are used."""
    used = {Path(root).parts[0] for root in splits or ()}
    unused = [name for name in list_folders(folder) if splits and name not in used]
    roots = [folder, *(folder / root for root in splits or ())]
    loose = [
        (root / name).relative_to(folder).as_posix()
        for root in roots
        for name in list_loose_images(root)
    ]
    kinds = {
        f"folders beside {', '.join(splits or ())}, ignored": unused,
        "images outside class folders, ignored": loose,
    }
    lines = [f"{kind}: {len(of):,} ({list_names(of)})." for kind, of in kinds.items() if of]
    return [*lines, *warn_of_case_variants(names)]
