"""Readers of objects: boxes, and the classes and numbers of objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kerakit.data.annotations.box_table import is_box_table, no_boxes, read_box_tables
from kerakit.data.annotations.coco import is_coco, read_coco, select_files
from kerakit.data.annotations.listing import Listing
from kerakit.data.annotations.objects import (
    Annotations,
    Boxes,
    box_faults,
    clean_boxes,
    fill_sizes,
)
from kerakit.data.annotations.per_image import read_kitti, read_labelme, read_voc, read_yolo
from kerakit.data.annotations.recognize import (
    FORMATS,
    TABLES,
    DataFormat,
    recognize,
    recognize_listing,
)
from kerakit.data.base_reader import BaseReader, LabelFault
from kerakit.data.folders import check_printable, warn_of_case_variants
from kerakit.data.index import ImageIndex
from kerakit.data.rarest import rarest_class
from kerakit.data.shards.index import Shards, damaged_index, open_shards
from kerakit.data.shards.objects import from_arrow
from kerakit.data.shards.splits import split_indices
from kerakit.errors import UserError, printable

OBJECT_FORMATS = ("coco", "voc", "yolo", "labelme", "kitti", "boxes")
"""Names of the formats with objects."""


def read_objects(
    data: Path, shapes: bool = False, points: bool = False, task: str = "", other: str = ""
) -> tuple[Path, DataFormat, Annotations]:
    """Return root, format and content of annotation files.

    Args:
        data: folder, or annotation file.
        shapes: read polygons and masks.
        points: read keypoints.
        task: the task, for the format of a folder.
        other: formats that the caller reads itself, for the error.

    Raises:
        UserError: another format.
    """
    if (shards := open_shards(data)) is not None and shards.kind == "objects":
        return shards.storage.root, recognize(data), _from_shards(shards, points)
    found, listing = recognize_listing(data, task)
    files = []
    if found.name == "table" and not points and not shapes:
        raise no_boxes(data)
    without = ("voc", "kitti", "boxes") if points else ()
    if found.name not in OBJECT_FORMATS or found.name in without:
        kind = "keypoints" if points else "polygons" if shapes else "boxes"
        formats = ("coco", "yolo", "labelme") if points or shapes else OBJECT_FORMATS
        names = ", ".join(FORMATS[name] for name in formats)
        names += ", or a table with columns such as nose_x and nose_y" if points else ""
        raise UserError(f"{data} ({found}) has no {kind}. Expected {other}{names}.")
    if listing is None:
        # The images are beside the file, or beside its folder annotations/.
        parent = data.parent
        inner = parent.name.casefold() in ("annotations", "annotation", "labels", "json")
        listing = Listing(parent.parent if inner else parent)
        files = [data.relative_to(listing.root).as_posix()]
    if found.name == "coco":
        every = files or [
            path for path in listing.with_extension(".json") if is_coco(listing.root / path)
        ]
        annotations = read_coco(
            listing, files or select_files(every, points), shapes=shapes, points=points
        )
        _fill_splits(listing, annotations)
    elif found.name == "boxes":
        annotations = read_box_tables(
            listing,
            files
            or [
                path
                for path in listing.with_extension(*TABLES)
                if is_box_table(listing.root / path)
            ],
        )
    elif found.name == "yolo":
        annotations = read_yolo(listing, shapes, points)
    elif found.name == "labelme":
        annotations = read_labelme(listing, shapes, points)
    else:
        read = {"voc": read_voc, "kitti": read_kitti}[found.name]
        annotations = read(listing)
    if not annotations.images:
        notes = " ".join(map(printable, annotations.warnings))
        raise UserError(f"{data} ({found}) has no usable images. {notes}".rstrip())
    check_printable(annotations.class_names, data)
    annotations.warnings += listing.warnings()
    fill_sizes(listing.root, annotations)
    return listing.root, found, annotations


def _from_shards(shards: Shards, points: bool) -> Annotations:
    """Return the annotations in the index of shards."""
    name = "poses" if points else "objects"
    column = shards.annotations(name)
    if column is None:
        kind = "keypoints" if points else "objects"
        raise UserError(f"{shards.name} has no {kind}. They were not in the data that was packed.")
    splits = split_indices(shards.table["split"])
    try:
        annotations = from_arrow(column, shards.keys, splits, shards.metadata["sets"][name])
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise damaged_index(shards.storage, error) from None
    annotations.shards = shards
    return annotations


def _fill_splits(listing: Listing, annotations: Annotations) -> None:
    """Read the splits of images from lists and folders where no annotation file has one."""
    unknown = np.flatnonzero(annotations.splits < 0)
    if len(unknown) == len(annotations.splits):
        annotations.splits = listing.given_splits(annotations.images)


@dataclass(frozen=True)
class ListedObjects:
    """Images and boxes of annotation files.

    Attributes:
        format: their format.
        annotations: their content.
        boxes: the valid boxes.
        counts: int32 (n, classes), number of objects per image and class.
        index: index of the images; its targets are the rarest class of each.
    """

    format: DataFormat
    annotations: Annotations
    boxes: Boxes
    counts: NDArray[np.int32]
    index: ImageIndex


def list_objects(data: Path, other: str = "") -> ListedObjects:
    """Return images and boxes of annotation files.

    Args:
        data: folder, table, or annotation file.
        other: formats that the caller reads itself, for the error.

    Raises:
        UserError: no data of these formats, or no boxes.
    """
    root, found, annotations = read_objects(data, other=other)
    boxes = clean_boxes(annotations)
    if not len(boxes.classes):
        note = " ".join([*boxes.warnings(), *_first_fault(annotations)])
        raise UserError(
            f"{data} ({found}) has no boxes in its {len(annotations.images):,} images. "
            f"{note}".rstrip()
        )
    counts = boxes.presence(len(annotations.class_names))
    warnings = boxes.warnings()
    if without := int((np.diff(boxes.offsets) == 0).sum()):
        warnings.append(f"images without objects, used as negative examples: {without:,}.")
    index = make_index(root, annotations, rarest_class(counts > 0), warnings)
    return ListedObjects(found, annotations, boxes, counts, index)


def _first_fault(annotations: Annotations) -> list[str]:
    """Return a sentence about the first fault of the files, if there is one."""
    faults = [fault for fault in annotations.faults if fault[1] != "label without image"]
    return [f"{len(faults):,} faults, such as {key}: {detail}." for key, _, detail in faults[:1]]


def make_index(
    root: Path, annotations: Annotations, strata: NDArray[np.int32], warnings: Sequence[str]
) -> ImageIndex:
    """Return the index of the images of annotation files."""
    return ImageIndex(
        root,
        pa.array([image.encode("utf-8", "surrogateescape") for image in annotations.images]),
        strata,
        annotations.class_names,
        annotations.splits,
        warnings=(
            *warn_of_case_variants(annotations.class_names),
            *map(printable, annotations.warnings),
            *warnings,
        ),
        shards=annotations.shards,
    )


class AnnotatedReader(BaseReader):
    """Base of the readers of annotation files."""

    _annotations: Annotations
    format: DataFormat

    def declared_sizes(self) -> NDArray[np.int32]:
        """Return the sizes in the annotation files, int32 (n, 2); where they have none, 0."""
        if self._shards is not None and self._shards.metadata["max_side"]:
            return super().declared_sizes()  # they are those before the images were packed
        sizes: NDArray[np.int32] = self._annotations.sizes[self.rows]
        return sizes

    def label_faults(self) -> Iterator[LabelFault]:
        """Yield the faults of the annotation files."""
        for key, kind, detail in self._annotations.faults:
            yield LabelFault(key, kind, detail)


class ObjectReader(AnnotatedReader):
    r"""Images with boxes of objects: COCO, YOLO, Pascal VOC, LabelMe, KITTI, tables of boxes.

    The format is recognized, see ``recognize``. Annotations are dictionaries: "boxes", float32
    (n, 4), x1, y1, x2, y2 as fractions of width and height of the upright image; "classes", int32
    (n,); "crowd", bool (n,), for regions that are neither an object nor background (COCO:
    ``iscrowd``, Pascal VOC: ``difficult``, KITTI: DontCare). Inverted corners are exchanged, boxes
    are clipped to the image; boxes without area, with NaN or of an unknown class, and copies are
    omitted; ``warnings`` has their numbers. An image without objects is a valid example. A table
    has a row per box: the columns ``path``, ``xmin``, ``ymin``, ``xmax``, ``ymax`` and ``label``,
    or similar names; a row without a box lists an image without objects.

    Args:
        data: folder, table, or annotation file (COCO, data.yaml of YOLO).
        train_ratio: as for ``DataReader``.
        seed: as for ``DataReader``. The split is stratified by the rarest class of an image.
        exclusions: as for ``DataReader``.

    Attributes:
        format: the format of the data, and what it was recognized by.

    Raises:
        UserError: no data of these formats, no images, no boxes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("images/1.jpg", "images/2.jpg", "labels/1.txt", "classes.txt"):
    ...         path = Path(folder) / name
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     _ = (Path(folder) / "labels/1.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    ...     _ = (Path(folder) / "classes.txt").write_text("cat\ndog\n")
    ...     reader = ObjectReader(folder)
    >>> reader.class_names, reader.format.name
    (('cat', 'dog'), 'yolo')
    >>> reader.target(0)["boxes"].tolist(), reader.target(1)["boxes"].shape
    ([[0.375, 0.25, 0.625, 0.75]], (0, 4))
    """

    _boxes: Boxes

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of the images that annotation files list."""
        found = list_objects(data)
        self.format, self._annotations = found.format, found.annotations
        self._boxes, self._counts = found.boxes, found.counts
        return found.index

    def target(self, i: int) -> Any:
        """Return boxes, classes and crowds of image ``i``."""
        boxes = self._boxes
        start, stop = boxes.offsets[self.rows[i] : self.rows[i] + 2]
        return {
            "boxes": boxes.boxes[start:stop],
            "classes": boxes.classes[start:stop],
            "crowd": boxes.crowd[start:stop],
        }

    def has_keypoints(self) -> bool:
        """Return whether the annotation files name keypoints, for ``KeypointReader``."""
        return bool(self._annotations.point_names)

    def presence(self) -> NDArray[np.bool_]:
        """Return the classes of the objects of each image, bool (n, classes)."""
        presence: NDArray[np.bool_] = self._counts[self.rows] > 0
        return presence

    def label_faults(self) -> Iterator[LabelFault]:
        """Yield the faulty boxes, images without objects, and faults of the files."""
        yield from super().label_faults()
        images = self._annotations.images
        for row, kind, detail in box_faults(self._annotations, self._boxes):
            yield LabelFault(images[row], kind, detail)
        for row in self.rows[np.diff(self._boxes.offsets)[self.rows] == 0]:
            yield LabelFault(images[row], "image without labels")
