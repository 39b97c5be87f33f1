"""Shards of every task: the annotations that readers have are those of the dataset."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerakit import data as readers
from kerakit.data import DataReader, KeypointReader, MaskReader, ObjectReader, TableReader
from kerakit.data.annotations.objects import Annotations, ObjectColumns, clean_boxes
from kerakit.data.check import check_images, open_dataset
from kerakit.data.ready import write_ready_data
from kerakit.data.shards.objects import from_arrow, to_arrow
from packing import assert_equal, assert_same, pack
from projects import write_image

READERS = {
    "classification": "DataReader",
    "multilabel": "MultiLabelReader",
    "regression": "RegressionReader",
    "segmentation": "MaskReader",
    "keypoints": "KeypointReader",
    "detection": "ObjectReader",
    "multitask": "TableReader",
}


@pytest.mark.parametrize("task", READERS)
def test_the_reader_of_each_task(tmp_path: Path, task: str) -> None:
    data = write_ready_data(task, tmp_path / "data", 24)
    pack(data, tmp_path / "shards", task)
    reader = getattr(readers, READERS[task])
    one, other = reader(data), reader(tmp_path / "shards")
    assert_same(one, other)
    assert one.counts("train").tolist() == other.counts("train").tolist()
    assert (one.declared_sizes() == other.declared_sizes()).all()
    assert type(open_dataset(data)) is type(open_dataset(tmp_path / "shards"))
    kinds = [
        sorted((finding.kind, finding.key) for finding in check_images(open_dataset(place), 1))
        for place in (data, tmp_path / "shards")
    ]
    assert kinds[0] == kinds[1]
    # Again from the shards.
    pack(tmp_path / "shards", tmp_path / "again", task)
    assert_same(one, reader(tmp_path / "again"))


def write_coco(path: Path, keypoints: bool) -> None:
    images, annotations = [], []
    for i in range(6):
        write_image(path / f"images/{i}.jpg", i, (40, 30))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30})
    for n in range(9):
        x, y = 2 * n, n
        shape: Any = [[x, y, x + 9, y, x + 9, y + 7], [x, y, x + 3, y, x, y + 3]]
        if n % 3 == 1:
            shape = {"size": [30, 40], "counts": [30 * x + y, 5, 30 * 40 - 30 * x - y - 5]}
        if n % 3 == 2:
            shape = []
        one = {
            "id": n,
            "image_id": n % 4,
            "category_id": 1 + n % 2,
            "bbox": [x, y, 9, 7],
            "iscrowd": int(n == 4),
            "segmentation": shape,
        }
        if keypoints:
            one["keypoints"] = [x, y, 2, x + 4, y + 2, 1]
        annotations.append(one)
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    if keypoints:
        categories = [{**one, "keypoints": ["nose", "tail"]} for one in categories]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (path / "annotations").mkdir(parents=True, exist_ok=True)
    (path / "annotations/instances.json").write_text(json.dumps(content))


@pytest.mark.parametrize("max_side", [None, 20])
def test_one_file_of_several_tasks(tmp_path: Path, max_side: int | None) -> None:
    write_coco(tmp_path / "data", keypoints=True)
    pack(tmp_path / "data", tmp_path / "shards", max_side=max_side)
    for reader in (ObjectReader, KeypointReader, MaskReader, readers.RegressionReader):
        one, other = reader(tmp_path / "data"), reader(tmp_path / "shards")
        assert len(one) == len(other)
        for i in range(len(one)):
            assert one.key(i) == other.key(i)
            assert_equal(one.target(i), other.target(i))
    place = ObjectReader(tmp_path / "shards").image_path(0)
    assert place.image_size == ((40, 30) if max_side is None else (20, 15))
    kinds = {finding.kind for finding in check_images(open_dataset(tmp_path / "shards"), 1)}
    assert "image of another size" not in kinds


def test_points_in_pixels_of_images_that_were_scaled_down(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / f"data/{i}.png", i, (80, 40))
    rows = ["path,nose_x,nose_y", *(f"{i}.png,{10 + i},20" for i in range(4))]
    (tmp_path / "data/points.csv").write_text("\n".join(rows))
    pack(tmp_path / "data/points.csv", tmp_path / "shards", max_side=40)
    one, other = KeypointReader(tmp_path / "data/points.csv"), KeypointReader(tmp_path / "shards")
    for i in range(4):
        assert_equal(one.target(i), other.target(i))


def test_masks_keep_their_names(tmp_path: Path) -> None:
    data = write_ready_data("segmentation", tmp_path / "data", 8)
    pack(data, tmp_path / "shards")
    other = MaskReader(tmp_path / "shards", ignore=[2])
    assert other.class_names == MaskReader(data, ignore=[2]).class_names
    assert_equal(MaskReader(data, ignore=[2]).target(0), other.target(0))


TEXT = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters="\"',;"), min_size=1
)
LABEL = TEXT.map(str.strip).filter(lambda text: text and text.casefold() != "nan")
NUMBER = st.floats(-1e6, 1e6, allow_nan=False, width=32).map(repr)


@given(
    st.lists(
        st.tuples(
            LABEL, st.lists(LABEL, max_size=3), NUMBER, st.sampled_from(["train", "val", ""])
        ),
        min_size=3,
        max_size=8,
    )
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("table")
    names = ["path", "kind", "tags", "size", "split", "group"]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for i, (kind, tags, number, split) in enumerate(rows):
            write_image(folder / f"{i}.png", i, (4, 4))
            # Images of one group have one split.
            writer.writerow([f"{i}.png", kind, ";".join(tags), number, split, f"group {i}"])
    kinds: Any = {"kind": "class", "tags": "set", "size": "number"}
    pack(folder / "labels.csv", folder.parent / f"{folder.name}-shards")
    one = TableReader(folder / "labels.csv", columns=kinds)
    other = TableReader(folder.parent / f"{folder.name}-shards", columns=kinds)
    assert_same(one, other)
    assert one.recipe() == other.recipe()


COORDINATE = st.floats(-10, 50, width=32)
OBJECTS = st.lists(
    st.tuples(
        st.integers(-1, 4),
        st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE),
        st.integers(-1, 2),
        st.booleans(),
        st.lists(st.lists(COORDINATE, min_size=6, max_size=9), max_size=3),
        st.none() | st.tuples(st.just(2), st.just(3), st.binary() | st.lists(st.integers(0, 6))),
        st.none() | st.lists(COORDINATE, min_size=3, max_size=6),
    ),
    max_size=12,
)


@given(OBJECTS, st.permutations(range(5)))
@settings(max_examples=40)
def test_any_objects(objects: list[Any], order: list[int]) -> None:
    columns = ObjectColumns()
    for row, box, label, crowd, polygons, rle, keypoints in objects:
        columns.add(row, box, label, crowd, "unknown class")
        for polygon in polygons:
            columns.add_polygon(polygon)
        if rle is not None:
            columns.rle[len(columns) - 1] = rle
        if keypoints is not None:
            columns.add_keypoints(keypoints)
    images = [f"{i}.jpg" for i in range(5)]
    sizes = np.arange(10, dtype=np.int32).reshape(5, 2)
    splits = np.array([0, 1, 2, -1, -1], np.int8)
    one = Annotations(images, sizes, splits, columns, ("a", "b", "c"))
    metadata = {"class_names": ["a", "b", "c"], "point_names": [], "in_pixels": True}
    keys = pa.array([images[i].encode() for i in order], pa.binary())
    column = to_arrow(one, np.array(order))
    column.validate(full=True)
    other = from_arrow(column, keys, splits[order], metadata)
    assert other.images == [images[i] for i in order]
    assert (other.sizes == sizes[order]).all()
    assert (other.splits == splits[order]).all()
    first, second = clean_boxes(one), clean_boxes(other)
    for new, old in enumerate(order):
        a, b = slice(*first.offsets[old : old + 2]), slice(*second.offsets[new : new + 2])
        assert_equal(first.boxes[a], second.boxes[b])
        assert_equal(first.classes[a], second.classes[b])
        assert_equal(first.crowd[a], second.crowd[b])
        assert _shapes(one, old) == _shapes(other, new)


def _shapes(annotations: Annotations, row: int) -> list[Any]:
    """Polygons, run lengths and keypoints of the objects of an image, in their order."""
    columns = annotations.objects
    ends = np.cumsum([0, *(2 * size for size in columns.part_sizes)]).tolist()
    found = []
    for i, of in enumerate(columns.rows):
        if of != row:
            continue
        parts = [n for n, owner in enumerate(columns.part_objects) if owner == i]
        polygons = [list(columns.points[ends[n] : ends[n + 1]]) for n in parts]
        found.append((polygons, columns.rle.get(i), list(columns.keypoints.get(i, [1e9]))))
    return found


def test_labels_of_tables_that_classify(tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / f"data/{i}.png", i)
    rows = [f"{i}.png,{'007' if i % 2 else '8'},g{i // 2},{i}" for i in range(6)]
    table = tmp_path / "data/labels.csv"
    table.write_text("\n".join(["path,label,group,sample_weight", *rows]))
    pack(table, tmp_path / "shards")
    one, other = DataReader(table), DataReader(tmp_path / "shards")
    assert_same(one, other)
    assert_equal(one.sample_weights, other.sample_weights)
