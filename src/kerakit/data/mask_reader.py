"""Reader of masks: image files, columns of tables, polygons and run lengths of objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kerakit.data.annotations.mask_files import (
    Color,
    MaskClasses,
    find_classes,
    find_masks,
    mask_faults,
    named_in,
)
from kerakit.data.annotations.objects import UNKNOWN, Annotations
from kerakit.data.annotations.recognize import FORMATS, recognize_listing
from kerakit.data.annotations.rle import decode_rle, trace_polygons
from kerakit.data.base_reader import BaseReader, LabelFault
from kerakit.data.decode import read_upright_size
from kerakit.data.folders import check_printable, warn_of_case_variants
from kerakit.data.index import ImageIndex
from kerakit.data.label_columns import read_paths
from kerakit.data.object_reader import read_objects
from kerakit.data.shards.index import Shards
from kerakit.data.shards.member import Member
from kerakit.data.tables import index_columns
from kerakit.device.segmentation import IGNORED
from kerakit.errors import ImageError, UserError, list_names
from kerakit.machine import available_cores

BACKGROUND = "background"
"""Class of the pixels outside of all polygons."""


class MaskReader(BaseReader):
    r"""Images with masks: pairs of files, a column of a table, or polygons of objects.

    The format is recognized, see ``recognize``. Pairs have the same name, in folders such as
    ``images/`` and ``masks/``, ``train/images/`` and ``train/masks/``, ``train/`` and
    ``trainannot/``, ``leftImg8bit/`` and ``gtFine/``, or suffixes such as ``_mask``. A table has
    the columns ``path`` and ``mask``. Annotations of files are ``{"mask": path}``; where values are
    not class indices, with "values", int16 (256,), the class of each gray value (255 for none, -1
    for unknown values), or "colors", those of the classes. Those of objects (COCO, YOLO,
    LabelMe) are {"polygons": list of float32 (k, 2), corners as fractions of width and height;
    "classes": int32 (polygons,); "objects": int32 (polygons,)}: polygons with the same number are
    drawn together, so that those inside others are holes (even-odd rule); large objects come first,
    crowds have the class 255.

    The names of classes are those of a file beside the masks, such as classes.txt (one per line),
    class_dict.csv (name, r, g, b) or CVAT's labelmap.txt; or else the values of 200 masks.

    Args:
        data: folder, table, or annotation file.
        train_ratio: as for ``DataReader``.
        seed: as for ``DataReader``.
        exclusions: as for ``DataReader``.
        class_names: names of the classes, in the order of their values.
        ignore: values of pixels without a class, besides 255.
        colors: (red, green, blue) of each class, for masks in colors.

    Attributes:
        ignore: as passed.
        colors: (red, green, blue) of each class, or None.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("images", "masks"):
    ...         (Path(folder) / name).mkdir()
    ...         Image.fromarray(np.eye(4, dtype=np.uint8)).save(f"{folder}/{name}/1.png")
    ...     reader = MaskReader(folder)
    ...     mask = Path(reader.target(0)["mask"]).relative_to(folder)
    >>> reader.class_names, mask.as_posix()
    (('0', '1'), 'masks/1.png')
    """

    def __init__(
        self,
        data: Path | str,
        train_ratio: float = 0.8,
        seed: int = 0,
        exclusions: Path | Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        ignore: Sequence[int] = (),
        colors: Sequence[Color] | None = None,
    ) -> None:
        self._given = None if class_names is None else tuple(class_names)
        self.ignore = tuple(ignore)
        self.colors = None if colors is None else tuple(colors)
        super().__init__(data, train_ratio, seed, exclusions)

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of the images with masks."""
        found, listing = recognize_listing(data, "segmentation")
        self.format = found
        self._masks: Sequence[str] | None = None
        self._faults: list[tuple[str, str, str]] = []
        if found.name == "table":
            index, cells = index_columns(data)
            if "mask" not in cells:
                raise UserError(
                    f"{data} has no column 'mask'; its columns of labels are "
                    f"{', '.join(cells) or 'none'}."
                )
            if (shards := index.shards) is not None:
                return self._read_shards(index, shards)
            self._masks = read_paths(data, "mask", cells["mask"]).to_pylist()
        elif found.name == "masks":
            assert listing is not None  # noqa: S101 - only files are recognized without it
            pairs, without, left = find_masks(listing)
            self._masks = list(pairs.values())
            self._faults += [(image, "image without labels", "no mask") for image in without]
            self._faults += [(mask, "label without image", "") for mask in left]
            counts = {
                "images without a mask, omitted": without,
                "masks without an image, ignored": left,
            }
            lines = [f"{k}: {len(of):,} ({list_names(of)})." for k, of in counts.items() if of]
            index = ImageIndex(
                data,
                pa.array([image.encode("utf-8", "surrogateescape") for image in pairs]),
                np.zeros(len(pairs), np.int32),
                (),
                listing.given_splits([*pairs]),
                warnings=(*listing.warnings(), *lines),
            )
        elif found.name in ("coco", "yolo", "labelme"):
            return self._read_polygons(data)
        else:
            raise UserError(
                f"{data} ({found}) has no masks. Expected folders such as images/ "
                "and masks/ with files of the same names, a table with the columns path and mask, "
                f"or {FORMATS['coco']}, {FORMATS['yolo']} or {FORMATS['labelme']} with polygons."
            )
        index = self._drop_missing(index)
        paths = [index.root / mask for mask in self._masks]
        return self._with_classes(data, index, self._find_classes(listing, paths))

    def _read_shards(self, index: ImageIndex, shards: Shards) -> ImageIndex:
        """Return the index of shards with masks."""
        if "mask" not in shards.metadata["mask_columns"]:
            raise UserError(f"{shards.name} has no masks in the column 'mask'.")
        self._masks = shards.labels("mask").to_pylist()
        classes = self._find_classes(None, shards.masks("mask"), named_in(shards.metadata))
        return self._with_classes(self.data, index, classes)

    def _with_classes(self, data: Path, index: ImageIndex, classes: MaskClasses) -> ImageIndex:
        self._classes = classes.ignoring(self.ignore)
        names = self._classes.names
        check_printable(names, data)
        self.colors = self._classes.colors
        warnings = [] if self._given else [f"classes by {self._classes.reason}: {len(names)}."]
        return replace(
            index,
            class_names=names,
            warnings=(*index.warnings, *warnings, *warn_of_case_variants(names)),
        )

    def _drop_missing(self, index: ImageIndex) -> ImageIndex:
        """Return the index without the images whose masks do not exist."""
        masks = self._masks or ()
        exists = np.array([(index.root / mask).is_file() for mask in masks], np.bool_)
        missing = [mask for mask, there in zip(masks, exists, strict=True) if not there]
        if not missing:
            return index
        if len(missing) == len(masks):
            raise UserError(
                f"none of the {len(masks):,} masks of {self.data} exist: {list_names(missing)}."
            )
        keys = index.keys.filter(pa.array(~exists)).to_pylist()
        self._faults += [
            (os.fsdecode(key), "image without labels", f"no {mask}")
            for key, mask in zip(keys, missing, strict=True)
        ]
        self._masks = [mask for mask, there in zip(masks, exists, strict=True) if there]
        line = (
            f"images whose mask does not exist, omitted: {len(missing):,} ({list_names(missing)})."
        )
        return replace(
            index,
            keys=index.keys.filter(pa.array(exists)),
            targets=index.targets[exists],
            splits=index.splits[exists],
            groups=None if index.groups is None else index.groups.filter(pa.array(exists)),
            warnings=(*index.warnings, line),
        )

    def target(self, i: int) -> dict[str, Any]:
        """Return the mask file of image ``i``, or its polygons."""
        row = int(self.rows[i])
        if self._masks is None:
            return self._polygons(row)
        mask = self._mask(row)
        return self._classes.annotation(mask if isinstance(mask, Member) else str(mask))

    def _mask(self, row: int) -> Path | Member:
        """Return the mask of a row of the index."""
        if self._shards is not None:
            return self._shards.mask("mask", row)
        return self.root / (self._masks or ())[row]

    def _members(self, i: int) -> Iterator[Member]:
        yield from super()._members(i)
        if self._shards is not None and self._masks is not None:
            yield self._shards.mask("mask", int(self.rows[i]))

    def presence(self) -> NDArray[np.bool_]:
        """Return the classes of each image, bool (n, classes); of mask files, all of them."""
        if self._masks is None:
            presence: NDArray[np.bool_] = self._presence[self.rows]
            return presence
        return super().presence()

    def label_faults(self) -> Iterator[LabelFault]:
        """Read every mask, and yield the faults of the masks."""
        for key, kind, detail in self._faults:
            yield LabelFault(key, kind, detail)
        if self._masks is None:
            for key, kind, detail in self._annotations.faults:
                yield LabelFault(key, kind, detail)
            yield from self._run_length_faults()
            return
        if self._shards is not None:
            self._sizes = self._shards.original_sizes()
        with ThreadPoolExecutor(available_cores()) as pool:
            for i, faults in enumerate(pool.map(self._check_mask, range(len(self)))):
                for kind, detail in faults:
                    yield LabelFault(self.key(i), kind, detail)

    def _run_length_faults(self) -> Iterator[LabelFault]:
        """Decode every mask of run lengths."""
        annotations = self._annotations
        rows = np.frombuffer(annotations.objects.rows, np.int64)
        for i, (height, width, counts) in annotations.objects.rle.items():
            if (row := int(rows[i])) < 0:
                continue
            size = annotations.sizes[row].tolist()
            if size[0] > 0 and size != [width, height]:
                detail = f"{width} by {height}, its image {size[0]} by {size[1]}"
                yield LabelFault(annotations.images[row], "mask of another size", detail)
            try:
                decode_rle(height, width, counts)
            except ValueError as error:
                yield LabelFault(annotations.images[row], "invalid annotation", str(error))

    def _labels(self) -> pa.Array:
        if self._masks is None:
            return super()._labels()
        # Paths of this machine have no part in a label.
        masks = [self._masks[row].encode("utf-8", "surrogateescape") for row in self.rows]
        return pa.array(masks, pa.binary())

    def _find_classes(
        self, listing: Any, masks: Sequence[Any], named: MaskClasses | None = None
    ) -> MaskClasses:
        if self._given is None and self.colors is not None:
            raise UserError("colors without class_names. Pass both, in the same order.")
        if self._given is not None and self.colors is not None:
            if len(self._given) != len(self.colors):
                raise UserError(
                    f"{len(self._given)} class_names, but {len(self.colors)} colors. Expected one "
                    "color per class."
                )
            return MaskClasses(self._given, self.colors)
        found = find_classes(listing, masks, self.ignore, named)
        if self._given is None:
            return found
        if found.values is not None and len(found.names) != len(self._given):
            raise UserError(
                f"{len(self._given)} class_names, but the masks of {self.data} have the values "
                f"{', '.join(map(str, np.flatnonzero(found.values >= 0)))}."
            )
        if found.colors is not None and len(found.colors) != len(self._given):
            raise UserError(
                f"the masks of {self.data} are in colors. Pass the color of each class as colors."
            )
        return replace(found, names=self._given)

    def _check_mask(self, i: int) -> list[tuple[str, str]]:
        try:
            size = read_upright_size(self.image_path(i))
        except ImageError:
            return []  # a finding of the image itself
        row = int(self.rows[i])
        if self._shards is not None:  # masks are packed as they are
            size = tuple(self._sizes[row].tolist())
        return mask_faults(self._mask(row), size, self._classes)

    # ------------------------------------------------------------------------ polygons of objects

    def _read_polygons(self, data: Path) -> ImageIndex:
        root, self.format, annotations = read_objects(data, shapes=True, task="segmentation")
        columns = annotations.objects
        if not columns.part_sizes and not columns.rle:
            raise UserError(
                f"{data} ({self.format}) has no polygons. For boxes, use the task detection."
            )
        self._annotations: Annotations = annotations
        rows = np.frombuffer(columns.rows, np.int64)
        boxes = np.frombuffer(columns.boxes, np.float64).reshape(-1, 4)
        areas = np.nan_to_num(np.abs((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
        classes = np.frombuffer(columns.classes, np.int32)
        has_shape = np.zeros(len(rows), np.bool_)
        has_shape[np.frombuffer(columns.part_objects, np.int64)] = True
        has_shape[[*columns.rle]] = True
        known = (rows >= 0) & (classes != UNKNOWN)
        usable = known & has_shape
        unknown = int(((rows >= 0) & (classes == UNKNOWN)).sum())
        # Sorted by image; large objects first, so that small ones are drawn on them.
        order = np.lexsort((-areas, rows))
        self._order = order[usable[order]]
        counts = np.bincount(rows[self._order], minlength=len(annotations.images))
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._parts = np.searchsorted(
            np.frombuffer(columns.part_objects, np.int64), np.arange(len(rows) + 1)
        )
        sizes = np.frombuffer(columns.part_sizes, np.int32)
        self._corners = np.concatenate([[0], np.cumsum(2 * sizes.astype(np.int64))])
        self._first = 0 if BACKGROUND in annotations.class_names else 1
        names = (BACKGROUND,) * self._first + annotations.class_names
        warnings = [*annotations.warnings]
        if unknown:
            warnings.append(f"objects of an unknown class, omitted: {unknown:,}.")
        if boxes_alone := int((known & ~has_shape).sum()):
            warnings.append(f"objects without a polygon, omitted: {boxes_alone:,}.")
        if without := int((counts == 0).sum()):
            warnings.append(f"images without objects, which are background: {without:,}.")
        self._presence = np.zeros((len(counts), len(names)), np.bool_)
        self._presence[rows[self._order], classes[self._order] + self._first] = True
        return ImageIndex(
            root,
            pa.array([image.encode("utf-8", "surrogateescape") for image in annotations.images]),
            np.zeros(len(annotations.images), np.int32),
            self._given or names,
            annotations.splits,
            warnings=(*warn_of_case_variants(names), *warnings),
            shards=annotations.shards,
        )

    def _polygons(self, row: int) -> dict[str, Any]:
        annotations = self._annotations
        columns = annotations.objects
        size = np.maximum(annotations.sizes[row], 1) if annotations.in_pixels else np.ones(2)
        points = np.frombuffer(columns.points, np.float32)
        polygons: list[NDArray[np.float32]] = []
        classes: list[int] = []
        objects: list[int] = []
        for i in self._order[self._offsets[row] : self._offsets[row + 1]]:
            parts = []
            for part in range(self._parts[i], self._parts[i + 1]):
                corners = points[self._corners[part] : self._corners[part + 1]].reshape(-1, 2)
                parts.append((corners / size).astype(np.float32))
            if int(i) in columns.rle:
                height, width, counts = columns.rle[int(i)]
                try:
                    mask = decode_rle(height, width, counts)
                except ValueError:
                    continue
                if not mask.any():
                    continue
                whole = np.array([width, height], np.float32)
                parts = [part / whole for part in trace_polygons(mask)]
            parts = [part for part in parts if np.isfinite(part).all()]
            label = IGNORED if columns.crowd[i] else int(columns.classes[i]) + self._first
            # Overlapping parts are not holes in COCO, YOLO and LabelMe; only run lengths have them.
            has_holes = int(i) in columns.rle
            first = objects[-1] + 1 if objects else 0
            objects += [first + (0 if has_holes else n) for n in range(len(parts))]
            polygons += parts
            classes += [label] * len(parts)
        return {
            "polygons": polygons,
            "classes": np.array(classes, np.int32),
            "objects": np.array(objects, np.int32),
        }
