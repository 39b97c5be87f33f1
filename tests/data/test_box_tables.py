"""Tables of boxes and of keypoints, with the headers that people's files have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from kerakit import UserError
from kerakit.data import KeypointReader, ObjectReader, recognize
from kerakit.data.check import check_images, open_dataset

SIZE = (40, 20)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(folder / name)
    return folder


def boxes_of(reader: ObjectReader) -> dict[str, list[tuple[str, list[float]]]]:
    """The class and the pixels of the boxes of each image."""
    found = {}
    for i in range(len(reader)):
        labels = reader.target(i)
        rows = (labels["boxes"] * [*SIZE, *SIZE]).round(3).tolist()
        names = [reader.class_names[k] for k in labels["classes"]]
        found[reader.key(i)] = list(zip(names, rows, strict=True))
    return found


HEADERS = {
    "TensorFlow": ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,40,20,cat,4,2,24,12"),
    "plain": ("image,xmin,ymin,xmax,ymax,label", "a.png,4,2,24,12,cat"),
    "corners": ("path;x1;y1;x2;y2;class_name", "./a.png;4;2;24;12;cat"),
    "OpenImages": (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax",
        "a,x,cat,1,.1,.6,.1,.6",
    ),
    "sizes": ("Image Name, x, y, w, h, category", "a.png, 4, 2, 20, 10, cat"),
    "makesense": (
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
        "cat,4,2,20,10,a.png,40,20",
    ),
    "centers": ("img_path,x_center,y_center,width,height,label", "a.png,0.35,0.35,0.5,0.5,cat"),
}


@pytest.mark.parametrize(("header", "row"), HEADERS.values(), ids=HEADERS)
def test_common_headers(header: str, row: str, tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    header = header.replace("img_path", "file_path")
    (tmp_path / "boxes.csv").write_text(f"{header}\n{row}\n")
    for data in (tmp_path / "boxes.csv", tmp_path):
        assert recognize(data).name == "boxes"
        reader = ObjectReader(data)
        assert boxes_of(reader) == {"a.png": [("cat", [4, 2, 24, 12])]}
        assert reader.class_names == ("cat",)


def test_images_without_objects_splits_crowds_and_one_class(tmp_path: Path) -> None:
    make(tmp_path / "images", "a.png", "b.png", "c.png", "d.png")
    rows = [
        "path,xmin,ymin,xmax,ymax,split,iscrowd,score",
        "images/a.png,0,0,10,10,train,0,1",
        "images/a.png,0,0,20,20,train,1,1",
        "b.png,,,,,val,,",
        "c.png,30,10,20,5,train,0,1",  # inverted
        "gone.png,1,1,2,2,train,0,1",
        "d.png,1,1,9,,train,0,1",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    reader = ObjectReader(tmp_path / "boxes.csv")
    assert boxes_of(reader) == {
        "images/a.png": [("object", [0, 0, 10, 10]), ("object", [0, 0, 20, 20])],
        "images/b.png": [],
        "images/c.png": [("object", [20, 5, 30, 10])],
        "images/d.png": [],
    }
    assert reader.target(0)["crowd"].tolist() == [False, True]
    assert [reader.key(int(i)) for i in reader.indices("val")] == ["images/b.png"]
    warnings = "\n".join(reader.warnings)
    assert "columns that are not used: 1 (score)" in warnings
    assert "images of tables that do not exist: 1 (boxes.csv: gone.png)" in warnings
    kinds = [fault.kind for fault in reader.label_faults()]
    assert {"label without image", "inverted corners", "box with NaN"} <= set(kinds)


def test_a_table_per_split_beside_its_images(tmp_path: Path) -> None:
    """As Roboflow exports them."""
    for split in ("train", "valid", "test"):
        make(tmp_path / split, "0.png")
        (tmp_path / split / "_annotations.csv").write_text(
            f"filename,width,height,class,xmin,ymin,xmax,ymax\n0.png,40,20,{split},0,0,10,10\n"
        )
    reader = ObjectReader(tmp_path)
    assert reader.class_names == ("test", "train", "valid")
    for mode, split in (("train", "train"), ("val", "valid"), ("test", "test")):
        (i,) = reader.indices(mode)  # type: ignore[arg-type]
        assert reader.key(i) == f"{split}/0.png"
        assert reader.class_names[reader.target(i)["classes"][0]] == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,4,2,24,12,cat\nb.png,1,2,3,4,cat", r"its first row is no header: a\.png, 4"),
        (
            "path,label\na.png,cat",
            r"has no boxes: its columns are path, label\. Expected a row per",
        ),
        ("image,xmin,ymin,xmax,label\na.png,1,2,3,cat", r"image, xmin, ymin, xmax, label"),
        ("image,xmin,ymin,xmax,ymax\na.png,x,2,3,4", r"has no boxes in its 1 images.*NaN"),
        ("image,xmin,ymin,xmax,ymax\n", r"has no rows"),
        ("image,xmin,ymin,xmax,ymax\n\n\n", r"has no rows"),
        ("image,xmin,ymin,xmax,ymax\na.png,1,2,3,4,5", r"cannot read the table .*got 6"),
        ("image,xmin,ymin,xmax,ymax,split\na.png,1,2,3,4,tarin", r"unknown split 'tarin'"),
    ],
)
def test_near_misses(text: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        ObjectReader(tmp_path / "boxes.csv")


def test_one_table_in_pixels_and_one_in_fractions(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    for name, row in (("a", "4,2,24,12"), ("b", "0.1,0.1,0.5,0.5")):
        (tmp_path / f"{name}.csv").write_text(f"image,x1,y1,x2,y2\n{name}.png,{row}\n")
    with pytest.raises(UserError, match=r"b\.csv has boxes in fractions, and another table"):
        ObjectReader(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(1, 30), st.integers(1, 10), st.integers(1, 10),
            st.integers(1, 10),
        ),
        min_size=1, max_size=8, unique=True,
    ),
    form=st.sampled_from(["corners", "size", "center"]),
    as_parquet=st.booleans(),
)  # fmt: skip
def test_all_forms_and_files_have_the_same_boxes(
    tmp_path_factory: pytest.TempPathFactory, boxes: Any, form: str, as_parquet: bool
) -> None:
    folder = make(tmp_path_factory.mktemp("boxes"), "0.png", "1.png", "2.png")
    expected: dict[str, list[tuple[str, list[float]]]] = {}
    columns: dict[str, list[Any]] = {"image": []}
    for n, x, y, w, h in boxes:
        names = {
            "corners": {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h},
            "size": {"x": x, "y": y, "width": w, "height": h},
            "center": {"x_center": x + w / 2, "y_center": y + h / 2, "width": w, "height": h},
        }[form]
        columns["image"].append(f"{n}.png")
        columns.setdefault("label", []).append(f"class {x % 2}")
        for name, value in names.items():
            columns.setdefault(name, []).append(value)
        expected.setdefault(f"{n}.png", []).append((f"class {x % 2}", [x, y, x + w, y + h]))
    table = pa.table(columns)
    if as_parquet:
        parquet.write_table(table, folder / "boxes.parquet")
    else:
        rows = [",".join(columns), *(",".join(map(str, r)) for r in zip(*columns.values()))]  # noqa: B905
        (folder / "boxes.csv").write_text("\n".join(rows))
    assert boxes_of(ObjectReader(folder)) == expected


# ---------------------------------------------------------------------------------------- keypoints


POINTS = {
    "suffix": "path,nose_x,nose_y,nose_v,Left Eye.X,Left Eye.Y\na.png,10,5,1,20,10\nb.png,,,,4,2",
    "prefix": "path,x_nose,y_nose,v_nose,x Left Eye,y Left Eye\na.png,10,5,1,20,10\nb.png,,,0,4,2",
    "fractions": "path,nose_x,nose_y,nose_v,Left Eye_x,Left Eye_y\n"
    "a.png,.25,.25,1,.5,.5\nb.png,,,0,.1,.1",
}


@pytest.mark.parametrize("text", POINTS.values(), ids=POINTS)
def test_tables_of_points(text: str, tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "points.csv").write_text(text)
    reader = KeypointReader(tmp_path / "points.csv")
    assert reader.class_names == ("nose", "Left Eye")
    np.testing.assert_allclose(reader.target(0)["keypoints"], [[0.25, 0.25, 1], [0.5, 0.5, 2]])
    second = np.array([[0, 0, 0], [0.1, 0.1, 2]])
    np.testing.assert_allclose(reader.target(1)["keypoints"], second)
    assert reader.target(0)["keypoints"].dtype == np.float32
    assert list(reader.label_faults()) == []


def test_numbered_points_splits_groups_and_weights(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        "path,split,sample_weight,x1,y1,x2,y2,note",
        "a.png,train,2,4,2,8,4,x",
        "b.png,val,1,4,2,80,4,x",
        "c.png,train,0.5,nan,2,8,4,x",
    ]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    reader = KeypointReader(tmp_path / "points.csv")
    assert reader.class_names == ("point 1", "point 2")
    assert reader.presence().tolist() == [[True, True], [True, False], [False, True]]
    assert reader.sample_weights is not None
    assert reader.sample_weights.tolist() == [2, 1, 0.5]
    assert reader.indices("val").tolist() == [1]
    assert "columns that are not used: 1 (note)." in reader.warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,nose\na.png,1", r"no keypoints: its columns are path, nose\. Expected two or three"),
        ("image,x1,y1\na.png,1,2", r"no column 'path'; its columns are image, x1, y1"),
        ("path,x1,y1\na.png,1,two", r"row 1: the column 'y1' has the value 'two'"),
        ("path,x1,y1\na.png,90,90", r"no keypoints inside of its 1 images"),
    ],
)
def test_near_misses_of_points(text: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        KeypointReader(tmp_path / "points.csv")


def test_the_check_names_faults_of_points(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows = [
        "path,nose_x,nose_y,nose_v,ear_x,ear_y,ear_v,tail_x,Tail_y",
        "a.png,80,5,2,20,10,2,1,1",  # outside
        "b.png,4,nan,2,20,10,7,1,1",
        "c.png,20,10,1,20,10,-1,1,1",
        "d.png,8,8,0.5,8,8,2,1,1",
        "e.png,,,,,,,1,1",
    ]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    reader = open_dataset(tmp_path / "points.csv")
    assert isinstance(reader, KeypointReader)
    labels = {"empty class", "duplicate", "near duplicate", "leak", "conflicting labels", "tiny"}
    found = [(f.key, f.kind, f.detail) for f in check_images(reader, 1) if f.kind not in labels]
    assert found == [
        ("e.png", "unreadable", "No such file or directory"),
        ("e.png", "image without labels", "no keypoints"),
        ("b.png", "point with NaN", "nose at 0.1, nan, visibility 2"),
        ("a.png", "point outside the image", "nose at 2, 0.25, visibility 2"),
        ("b.png", "visibility", "ear at 0.5, 0.5, visibility 7"),
        ("c.png", "visibility", "ear at 0.5, 0.5, visibility -1"),
        ("d.png", "visibility", "nose at 0.2, 0.4, visibility 0.5"),
        ("d.png", "duplicate point", "ear at 0.2, 0.4, visibility 2"),
        ("points.csv", "incomplete point", "column tail_x"),
        ("points.csv", "incomplete point", "column Tail_y"),
    ]
    assert "point outside the image, which counts as absent: 1." in reader.warnings


def test_most_points_may_be_absent(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "points.csv").write_text(
        "path,x1,y1,v1,x2,y2,v2,x3,y3,v3\na.png,20,10,2,0,0,0,0,0,0\nb.png,0,0,0,0,0,0,0,0,0"
    )
    reader = KeypointReader(tmp_path / "points.csv")
    np.testing.assert_allclose(reader.target(0)["keypoints"][0], [0.5, 0.5, 2])
