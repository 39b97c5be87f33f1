"""Reader of keypoints: COCO, YOLO pose, LabelMe, tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kerakit.data.annotations.objects import Annotations, ObjectColumns
from kerakit.data.annotations.point_table import find_lone_columns, read_points
from kerakit.data.annotations.points import clean_points
from kerakit.data.annotations.recognize import recognize
from kerakit.data.base_reader import LabelFault
from kerakit.data.folders import check_printable
from kerakit.data.index import ImageIndex
from kerakit.data.object_reader import AnnotatedReader, make_index, read_objects
from kerakit.data.table_files import is_table
from kerakit.data.tables import index_columns
from kerakit.errors import UserError


class KeypointReader(AnnotatedReader):
    r"""Images with the keypoints of one object each: COCO, YOLO pose, LabelMe, tables.

    Annotations are ``{"keypoints": float32 (points, 3)}``: x and y as fractions of width and height
    of the upright image, and the visibility: 0 absent, 1 hidden, 2 visible. Of several objects, the
    largest one is used; images without keypoints are omitted. In LabelMe, points are shapes of type
    point, whose labels are their names. A table has a row per image, and columns such as
    ``nose_x``, ``nose_y`` and optionally ``nose_v``, or ``x1``, ``y1``, ``v1``.

    Args:
        data: folder, table, or annotation file (COCO, data.yaml of YOLO).
        train_ratio: as for ``DataReader``.
        seed: as for ``DataReader``.
        exclusions: as for ``DataReader``.

    Attributes:
        class_names: names of the points.
        format: the format of the data, and what it was recognized by.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for i in range(3):
    ...         (Path(folder) / f"{i}.jpg").touch()
    ...         _ = (Path(folder) / f"{i}.json").write_text(
    ...             '{"imageWidth": 100, "imageHeight": 50, "shapes": [{"label": "nose", '
    ...             '"points": [[25, 25]], "shape_type": "point"}]}')
    ...     reader = KeypointReader(folder)
    >>> reader.class_names, reader.target(0)["keypoints"].tolist()
    (('nose',), [[0.25, 0.5, 2.0]])
    """

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of the images with keypoints."""
        if is_table(data):
            return self._read_table(data)
        root, self.format, annotations = read_objects(data, points=True)
        columns, names = annotations.objects, annotations.point_names
        rows = np.frombuffer(columns.rows, np.int64)
        boxes = np.frombuffer(columns.boxes, np.float64).reshape(-1, 4)
        areas = np.abs((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        largest: dict[int, int] = {}
        several = 0
        self._lost: list[LabelFault] = []
        for i, values in columns.keypoints.items():
            row = int(rows[i])
            if len(values) != 3 * len(names) or row < 0:
                if row >= 0:
                    count = f"{len(values)} numbers of keypoints; expected 3 x {len(names)}"
                    self._lost.append(
                        LabelFault(annotations.images[row], "number of keypoints", count)
                    )
                continue
            several += row in largest
            if row not in largest or areas[i] > areas[largest[row]]:
                largest[row] = i
        if not largest:
            lost = self._lost
            note = f"{len(lost):,} objects have {lost[0].detail}. " if lost else ""
            raise UserError(
                f"{data} ({self.format}) has no keypoints. {note}Expected keypoints with names "
                "in COCO, kpt_shape in data.yaml of YOLO, or shapes of type point in LabelMe."
            )
        selected = np.array(sorted(largest), np.int64)
        points = np.array([columns.keypoints[largest[row]] for row in selected], np.float32)
        points = points.reshape(len(selected), -1, 3)
        if annotations.in_pixels:
            sizes = annotations.sizes[selected].astype(np.float32)
            points[..., :2] /= np.where(sizes > 0, sizes, np.nan)[:, None]
        self._points = clean_points(points)
        without = len(annotations.images) - len(selected)
        annotations.images = [annotations.images[row] for row in selected]
        annotations.splits = annotations.splits[selected]
        annotations.sizes = annotations.sizes[selected]
        annotations.class_names = names
        self._annotations = annotations
        counts = {
            "objects beside the largest one of an image, omitted": several,
            "objects with another number of keypoints, omitted": len(self._lost),
            "images without keypoints, omitted": without,
        }
        warnings = [f"{kind}: {count:,}." for kind, count in counts.items() if count]
        warnings += self._points.warnings()
        return make_index(root, annotations, np.zeros(len(selected), np.int32), warnings)

    def _read_table(self, data: Path) -> ImageIndex:
        self.format, self._lost = recognize(data), []
        index, cells = index_columns(data)
        names, points, warnings = read_points(data, index, cells)
        check_printable(names, data)
        self._points = clean_points(points)
        if not self._points.points.any():
            raise UserError(f"{data} has no keypoints inside of its {len(points):,} images.")
        sizes = np.zeros((len(points), 2), np.int32)
        faults = [
            (data.name, "incomplete point", f"column {name}")
            for name in find_lone_columns([*cells])
        ]
        self._annotations = Annotations(
            [], sizes, index.splits, ObjectColumns(), names, faults=faults
        )
        warnings += self._points.warnings()
        return replace(index, class_names=names, warnings=(*index.warnings, *warnings))

    def target(self, i: int) -> dict[str, NDArray[np.float32]]:
        """Return the keypoints of image ``i``."""
        return {"keypoints": self._points.points[self.rows[i]]}

    def presence(self) -> NDArray[np.bool_]:
        """Return the points that each image has, bool (n, points)."""
        presence: NDArray[np.bool_] = self._points.points[self.rows][..., 2] > 0
        return presence

    def label_faults(self) -> Iterator[LabelFault]:
        """Yield the faulty points, images without points, and faults of the files."""
        yield from super().label_faults()
        yield from self.point_faults()

    def point_faults(self) -> Iterator[LabelFault]:
        """Yield the faulty points, and objects and images without points that can be used."""
        yield from self._lost
        indices = {int(row): i for i, row in enumerate(self.rows)}
        for row, kind, detail in self._points.name_faults(self.class_names):
            if row in indices:
                yield LabelFault(self.key(indices[row]), kind, detail)
        for i in np.flatnonzero(~self.presence().any(axis=1)).tolist():
            yield LabelFault(self.key(i), "image without labels", "no keypoints")
