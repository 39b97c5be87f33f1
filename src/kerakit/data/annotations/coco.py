"""COCO: one JSON file of images, annotations and categories for many images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.data.annotations.json_stream import read_elements
from kerakit.data.annotations.listing import Listing, split_of_path
from kerakit.data.annotations.objects import (
    UNKNOWN,
    Annotations,
    ObjectColumns,
    declared_size,
)
from kerakit.data.folders import normalize_name
from kerakit.data.index import UNASSIGNED
from kerakit.data.split import MODES, Mode, parse_split
from kerakit.errors import UserError, list_names, printable

_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')

_OTHER_KINDS = ("captions", "panoptic", "image_info")


def is_coco(path: Path) -> bool:
    """Whether a JSON file has the lists of COCO, by its start and end."""
    with path.open("rb") as file:
        start = file.read(2**16)
        file.seek(max(0, path.stat().st_size - 2**16))
        # Without the zeros of UTF-16, which the reader names.
        return any(_KEYS.search(part.replace(b"\0", b"")) for part in (start, file.read()))


def read_coco(
    listing: Listing, files: Sequence[str], shapes: bool = False, points: bool = False
) -> Annotations:
    """Return the content of COCO files.

    Args:
        listing: files of the dataset.
        files: annotation files, relative to its root.
        shapes: read polygons and masks.
        points: read keypoints; objects without are omitted.
    """
    reader = _Reader(listing, shapes, points)
    for file in files:
        reader.read(file)
    return reader.finish()


def select_files(files: Sequence[str], points: bool) -> list[str]:
    """Return the files of a folder to read: those of objects, or those of keypoints."""
    names = {file: Path(file).stem.casefold() for file in files}
    found = [file for file, name in names.items() if not name.startswith(_OTHER_KINDS)] or [*files]
    with_points = [file for file in found if "keypoints" in names[file]]
    if with_points and len(with_points) < len(found):
        found = with_points if points else [file for file in found if file not in with_points]
    # A file of all images beside those of each split.
    split = [file for file in found if _mode(file)]
    return split or found


def _mode(file: str) -> Mode | None:
    """Return the split that a name such as instances_train2017.json has, or its folder."""
    return parse_split(Path(file).stem)[0] or split_of_path(file)


class _Reader:
    def __init__(self, listing: Listing, shapes: bool, points: bool) -> None:
        self._listing = listing
        self._shapes, self._points = shapes, points
        self._images: list[str] = []
        self._rows: dict[str, int] = {}  # of each image, by path
        self._sizes: list[tuple[int, int]] = []
        self._splits: list[int] = []
        self._names: dict[str, int] = {}  # of classes
        self._point_names: Counter[tuple[str, ...]] = Counter()
        self._columns = ObjectColumns()
        self._faults: list[tuple[str, str, str]] = []
        self._counts: Counter[str] = Counter()

    def read(self, file: str) -> None:
        """Add a file."""
        path = self._listing.root / file
        # Images, and then categories, may come after the annotations.
        image_ids: dict[Any, int] = {}
        category_ids: dict[Any, int] = {}
        images: list[tuple[Any, str, int, int]] = []
        categories: list[tuple[Any, str, Sequence[Any]]] = []
        first = len(self._columns)
        found = set()
        seen: set[Any] = set()
        try:
            with path.open(encoding="utf-8-sig") as stream:
                for key, item in read_elements(stream):
                    found.add(key)
                    if key == "annotations":
                        self._add(file, item, image_ids, category_ids, seen)
                    elif key == "images" and item is not None:
                        images.append(_read_image(item))
                    elif key == "categories" and item is not None:
                        categories.append(_read_category(item))
        except UnicodeDecodeError:
            raise UserError(f"cannot read {path}: it is not UTF-8 text.") from None
        except (OSError, ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise UserError(f"cannot read the annotations {path}: {reason}.") from None
        if missing := [key for key in ("images", "annotations") if key not in found]:
            raise UserError(
                f"{path} has no list {missing[0]!r}. Expected the lists images, annotations and "
                "categories, as in COCO."
            )
        rows = self._find_images(file, images, image_ids)
        classes = self._find_classes(path, categories, category_ids, "categories" in found)
        self._renumber(first, rows, classes, {n: str(id_) for id_, n in category_ids.items()})

    def finish(self) -> Annotations:
        """Return the content of all files."""
        warnings = [f"{kind}: {count:,}." for kind, count in self._counts.items()]
        point_names: tuple[str, ...] = ()
        if self._point_names:
            point_names = self._point_names.most_common(1)[0][0]
            if len(self._point_names) > 1:
                warnings.append(
                    f"categories with other keypoints, omitted: {len(self._point_names) - 1:,}."
                )
        unused = len(self._listing.images) - len(self._images)
        if unused:
            warnings.append(f"images that the annotation files do not list, ignored: {unused:,}.")
        return Annotations(
            self._images,
            np.array(self._sizes, np.int32).reshape(-1, 2),
            np.array(self._splits, np.int8),
            self._columns,
            tuple(self._names),
            point_names=point_names,
            faults=self._faults,
            warnings=warnings,
        )

    def _add(
        self,
        file: str,
        item: Any,
        image_ids: dict[Any, int],
        category_ids: dict[Any, int],
        seen: set[Any],
    ) -> None:
        if item is None:
            return
        columns = self._columns
        try:
            if not isinstance(item, dict):
                raise ValueError(f"{item!r:.40}; expected a JSON object")
            segmentation = item.get("segmentation")
            x, y, width, height = _read_box(item.get("bbox"), segmentation)
            image = image_ids.setdefault(item["image_id"], len(image_ids))
            category = category_ids.setdefault(item.get("category_id", 0), len(category_ids))
            crowd = bool(item.get("iscrowd") or item.get("ignore"))
            columns.add(image, (x, y, x + width, y + height), category, crowd)
        except (TypeError, ValueError, KeyError) as error:
            where = item.get("id", "?") if isinstance(item, dict) else "?"
            self._faults.append((file, "invalid annotation", f"id {where}: {_reason(error)}"))
            self._counts["annotations that are invalid, omitted"] += 1
            return
        if (number := item.get("id")) is not None:
            try:
                if number in seen:
                    self._counts["annotations whose id occurs twice, used as they are"] += 1
                seen.add(number)
            except TypeError:
                pass
        if self._shapes:
            self._add_shape(file, item, segmentation)
        if self._points:
            self._add_points(file, item)

    def _add_shape(self, file: str, item: dict[str, Any], segmentation: Any) -> None:
        """Add the polygons, or the mask, of the last object."""
        try:
            if isinstance(segmentation, dict):
                height, width = map(int, segmentation["size"])
                counts = segmentation["counts"]
                counts = counts.encode() if isinstance(counts, str) else list(map(int, counts))
                self._columns.rle[len(self._columns) - 1] = (height, width, counts)
                return
            parts = segmentation or []
            if parts and not isinstance(parts[0], list):
                parts = [parts]
            for part in parts:
                if len(part) >= 6:
                    self._columns.add_polygon(part[: len(part) // 2 * 2])
        except (TypeError, ValueError, KeyError, OverflowError):
            detail = f"id {item.get('id', '?')}: segmentation {segmentation!r:.60}"
            self._faults.append((file, "invalid annotation", detail))

    def _add_points(self, file: str, item: dict[str, Any]) -> None:
        """Add the keypoints of the last object, if it has labeled ones."""
        try:
            values = list(map(float, item.get("keypoints") or ()))
        except (TypeError, ValueError):
            detail = f"id {item.get('id', '?')}: keypoints {item['keypoints']!r:.60}"
            self._faults.append((file, "invalid annotation", detail))
            return
        if any(values[2::3]):
            self._columns.add_keypoints(values)

    def _find_images(
        self, file: str, images: list[tuple[Any, str, int, int]], image_ids: dict[Any, int]
    ) -> NDArray[np.int64]:
        """Return the row of each image of a file, -1 for those that do not exist."""
        mode = _mode(file)
        split = UNASSIGNED if mode is None else MODES.index(mode)
        folder = file.rpartition("/")[0]
        names = defaultdict(set)
        for number, name, *_ in images:
            names[number].add(name)
        rows = np.full(len(image_ids) + 1, -1, np.int64)
        missing = []
        for number, name, width, height in images:
            if len(names[number]) > 1:
                self._faults.append((name, "duplicate id", f"image id {number} in {file}"))
                self._counts["images whose id is that of another image, omitted"] += 1
                continue
            if (path := self._listing.find_image(name, folder, mode)) is None:
                missing.append(name)
                note = self._listing.why_missing(name)
                self._faults.append((name, "label without image", f"{file}{note}"))
                continue
            if path in self._rows:
                row = self._rows[path]
            else:
                row = self._rows[path] = len(self._images)
                self._images.append(path)
                self._sizes.append((width, height))
                self._splits.append(split)
            for one in (number, _other_type(number)):
                if one in image_ids and (one == number or one not in names):
                    rows[image_ids[one]] = row
        if missing:
            self._counts["images of annotation files that do not exist, omitted"] += len(missing)
            if len(missing) == len(images):
                raise UserError(
                    f"none of the {len(images):,} images of {self._listing.root / file} exist "
                    f"below {self._listing.root}: "
                    f"{list_names([printable(name) for name in missing])}"
                    f"{self._listing.why_missing(missing[0])}."
                )
        return rows

    def _find_classes(
        self,
        path: Path,
        categories: list[tuple[Any, str, Sequence[Any]]],
        category_ids: dict[Any, int],
        has_categories: bool,
    ) -> NDArray[np.int32]:
        """Return the class of each category of a file, -1 for unknown ones."""
        if not has_categories:
            self._counts["annotation files without categories, whose classes are numbers"] += 1
            categories = [(number, str(number), ()) for number in category_ids]
        names: dict[Any, str] = {}
        for number, name, points in sorted(categories, key=lambda one: (str(type(one[0])), one[0])):
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"{path} has two categories with the id {number}: {names[number]!r} and "
                    f"{name!r}. Give each category an id of its own."
                )
            if name not in self._names:
                self._names[name] = len(self._names)
            if points:
                self._point_names[tuple(map(str, points))] += 1
        classes = np.full(len(category_ids) + 1, UNKNOWN, np.int32)
        for number, index in category_ids.items():
            found = names.get(number, names.get(_other_type(number)))
            if found is not None:
                classes[index] = self._names[found]
        return classes

    def _renumber(
        self, first: int, rows: NDArray[np.int64], classes: NDArray[np.int32], ids: dict[int, str]
    ) -> None:
        """Replace the numbers of images and categories of a file, and drop lost objects."""
        columns = self._columns
        own = np.frombuffer(columns.classes, np.int32)[first:]
        new_classes = classes[own]
        for i in np.flatnonzero(new_classes == UNKNOWN).tolist():
            columns.labels[first + i] = f"category {ids[int(own[i])]}"
        new_rows = rows[np.frombuffer(columns.rows, np.int64)[first:]]
        own[:] = new_classes
        np.frombuffer(columns.rows, np.int64)[first:] = new_rows
        lost = int((new_rows < 0).sum())
        if lost:
            self._counts["annotations without an image, omitted"] += lost


def _check_id(value: Any, owner: str) -> None:
    if not isinstance(value, int | float | str):
        kind = type(value).__name__
        raise ValueError(f"the {owner} id is of type {kind}; expected a number or a text")


def _read_image(item: Any) -> tuple[Any, str, int, int]:
    if not isinstance(item, dict) or "id" not in item or "file_name" not in item:
        raise ValueError("an image has no id or no file_name")
    _check_id(item["id"], "image")
    size = declared_size(item.get("width"), item.get("height"))
    return item["id"], str(item["file_name"]), *size


def _read_category(item: Any) -> tuple[Any, str, Sequence[Any]]:
    if not isinstance(item, dict) or "id" not in item:
        raise ValueError("a category has no id")
    _check_id(item["id"], "category")
    name, points = item.get("name"), item.get("keypoints") or []
    if not isinstance(name, str | int | float):
        name = item["id"]
    if not isinstance(points, list) or len(set(map(str, points))) < len(points):
        raise ValueError(
            f"the keypoints of the category {name} are {points!r:.60}; expected a list of "
            "different names"
        )
    return item["id"], normalize_name(str(name)), points


def _other_type(number: Any) -> Any:
    """Return an id as text, or as a number where it is text: "7" may refer to 7."""
    if isinstance(number, str):
        return int(number) if re.fullmatch(r"[+-]?\d{1,18}", number) else number
    return str(number)


def _read_box(box: Any, segmentation: Any) -> Sequence[float]:
    """Return x, y, width and height of an object, by its polygons where it has no box."""
    try:
        x, y, width, height = map(float, box or _bounds(segmentation))
    except (TypeError, ValueError):
        raise ValueError(f"bbox {box!r:.60}; expected four numbers") from None
    return x, y, width, height


def _bounds(segmentation: Any) -> Sequence[float]:
    """Return x, y, width and height of polygons."""
    parts = segmentation if isinstance(segmentation, list) else []
    flat = [value for part in parts for value in (part if isinstance(part, list) else [part])]
    if len(flat) < 6:
        raise ValueError("no polygons")
    x, y = flat[::2], flat[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    return str(error)
