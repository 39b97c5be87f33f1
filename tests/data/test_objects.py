"""Boxes, polygons and keypoints from annotation files; faulty labels do not end the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kerakit import UserError
from kerakit.data import (
    KeypointReader,
    MaskReader,
    MultiLabelReader,
    ObjectReader,
    RegressionReader,
    data_warnings,
    recognize,
)
from kerakit.data.annotations.rle import decode_rle, trace_polygons
from kerakit.data.check import check_images, open_dataset
from kerakit.data.split import Mode
from projects import write_image

SIZE = (200, 100)


def images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        write_image(folder / name, i, SIZE)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(
    names: list[str], annotations: list[dict[str, Any]], ids: tuple[int, ...] = (1, 2)
) -> dict[str, Any]:
    return {
        "images": [
            {"id": 10 + i, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for i, name in enumerate(names)
        ],
        "annotations": [{"id": i, **one} for i, one in enumerate(annotations)],
        "categories": [
            {"id": n, "name": name} for n, name in zip(ids, ("cat", "dog"), strict=True)
        ],
    }


def box(image: int = 10, category: int = 1, bbox: Any = (20, 10, 100, 50), **rest: Any) -> Any:
    return {"image_id": image, "category_id": category, "bbox": bbox, **rest}


def voc(*objects: str, size: str = "<size><width>200</width><height>100</height></size>") -> str:
    return f"<annotation><filename>x.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_object(name: str = "cat", corners: str = "20 10 120 60", more: str = "") -> str:
    values = corners.split()
    sides = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{side}>{v}</{side}>" for side, v in zip(sides, values, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{inner}</bndbox></object>"


BOX = [0.1, 0.1, 0.6, 0.6]


def write_format(folder: Path, name: str) -> None:
    """Write one image with a box of class cat, and one without objects, as each format does."""
    if name == "coco":
        images(folder / "train2017", "a.png", "b.png")
        write(folder / "annotations/instances_train2017.json", coco(["a.png", "b.png"], [box()]))
    elif name == "voc":
        images(folder / "JPEGImages", "a.png", "b.png")
        write(folder / "Annotations/a.xml", voc(voc_object()))
        write(folder / "Annotations/b.xml", voc())
    elif name == "yolo":
        images(folder / "images/train", "a.png", "b.png")
        write(folder / "labels/train/a.txt", "0 0.35 0.35 0.5 0.5\n")
        write(folder / "data.yaml", "train: images/train\nval: images/train\nnames: [cat, dog]\n")
    elif name == "labelme":
        images(folder, "a.png", "b.png")
        shape = {"label": "cat", "points": [[20, 10], [120, 60]], "shape_type": "rectangle"}
        page = {"imageWidth": 200, "imageHeight": 100, "imageData": None}
        write(folder / "a.json", {**page, "shapes": [shape]})
        write(folder / "b.json", {**page, "shapes": []})
    else:
        images(folder / "training/image_2", "a.png", "b.png")
        line = "cat 0.00 0 -1.57 20.00 10.00 120.00 60.00 1 1 1 0 0 0 0\n"
        write(folder / "training/label_2/a.txt", line)
        write(folder / "training/label_2/b.txt", "")


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "labelme", "kitti"])
def test_every_format_has_the_same_boxes(tmp_path: Path, name: str) -> None:
    write_format(tmp_path, name)
    reader = ObjectReader(tmp_path)
    assert recognize(tmp_path).name == reader.format.name == name
    assert reader.class_names[0] == "cat"
    found = {Path(reader.key(i)).name: reader.target(i) for i in range(len(reader))}
    assert sorted(found) == ["a.png", "b.png"]
    np.testing.assert_allclose(found["a.png"]["boxes"], [BOX], atol=1e-6)
    assert found["a.png"]["boxes"].dtype == np.float32
    assert found["a.png"]["classes"].tolist() == [0]
    assert found["a.png"]["classes"].dtype == np.int32
    assert found["a.png"]["crowd"].tolist() == [False]
    assert found["b.png"]["boxes"].shape == (0, 4)
    assert any("without objects" in line for line in data_warnings(reader))
    assert all(reader.image_path(i).is_file() for i in range(2))
    assert reader.recipe() == ObjectReader(tmp_path).recipe()


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "labelme", "kitti"])
def test_objects_are_labels_and_numbers_too(tmp_path: Path, name: str) -> None:
    write_format(tmp_path, name)
    labels = MultiLabelReader(tmp_path)
    assert sorted(labels.target(i)[0] for i in range(2)) == [0, 1]
    numbers = RegressionReader(tmp_path, columns=["cat"])
    assert numbers.class_names == ("cat",)
    assert sorted(numbers.target(i).tolist() for i in range(2)) == [[0.0], [1.0]]
    with pytest.raises(UserError, match="no class 'cow'"):
        RegressionReader(tmp_path, columns=["cow"])


def test_ids_as_text_and_as_numbers_are_equal(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    objects = [box(image="10", category="1"), box(image=11, category="2")]  # type: ignore[arg-type]
    write(tmp_path / "annotations.json", coco(["a.png", "b.png"], objects))
    reader = ObjectReader(tmp_path)
    classes = [reader.class_names[reader.target(i)["classes"][0]] for i in range(2)]
    assert classes == ["cat", "dog"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_label_files_of_windows(tmp_path: Path, encoding: str) -> None:
    images(tmp_path / "images", "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_bytes("0 0.5 0.5 0.5 0.5\r\n".encode(encoding))
    assert len(ObjectReader(tmp_path).target(0)["boxes"]) == 1


def test_xml_in_utf16_is_recognized(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    text = f'<?xml version="1.0" encoding="utf-16"?>{voc(voc_object("käfer"))}'
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    assert ObjectReader(tmp_path).class_names == ("käfer",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "0,0.5,0.5,0.5,0.5", "'0,0.5,0.5,0.5,0.5'; expected numbers, separated by"),
        ("a.xml", voc(voc_object(corners="1,5 2 30 40")), "bndbox .*'1,5'.*expected four numbers"),
        ("t.csv", "image;x1;y1;x2;y2\na.png;1,5;2;30;40", "column x1: '1,5'; expected a number"),
        (
            "t.json",
            coco(["a.png"], [box(bbox=[1, 2, 3])]),
            r"bbox \[1, 2, 3\]; expected four numbers",
        ),
        ("t.json", json.dumps(coco(["a.png"], [box()])) * 2, "it is damaged after"),
    ],
)
def test_the_error_names_the_first_fault(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    images(tmp_path, "a.png")
    write(tmp_path / "classes.txt", "cat")
    write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        ObjectReader(tmp_path)


def test_several_images_of_one_name(tmp_path: Path) -> None:
    images(tmp_path, "x/a.png", "y/a.png")
    write(tmp_path / "annotations.json", coco(["a.png"], [box()]))
    with pytest.raises(UserError, match=r"several images have this name: x/a\.png, y/a\.png"):
        ObjectReader(tmp_path)


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ({"size": [100, 200], "counts": [20000]}, []),
        ({"size": [10, 20], "counts": [200]}, ["mask of another size"]),
        ({"size": [100, 200], "counts": [5, 5]}, ["invalid annotation"]),
        ({"size": [10**9, 10**9], "counts": [10**18]}, ["invalid annotation", "mask of another"]),
        ([["a", 1, 2, 3, 4, 5]], ["invalid annotation"]),
        (True, ["invalid annotation"]),
    ],
)
def test_faulty_shapes_are_named_and_omitted(tmp_path: Path, shape: Any, kinds: list[str]) -> None:
    images(tmp_path, "a.png", "b.png")
    good = box(segmentation=[[0, 0, 50, 0, 50, 50]])
    objects = [good, box(image=11, segmentation=shape)]
    write(tmp_path / "annotations.json", coco(["a.png", "b.png"], objects))
    found = [f.kind for f in check_images(open_dataset(tmp_path), 1) if f.kind != "empty class"]
    found = [kind for kind in found if "class" not in kind and kind != "image without labels"]
    assert [kind[:15] for kind in found] == [kind[:15] for kind in kinds]
    reader = MaskReader(tmp_path)
    for i in range(2):
        annotation = reader.target(i)
        assert all(len(polygon) >= 3 for polygon in annotation["polygons"])


@pytest.mark.parametrize("first", [0, 1, 90])
def test_category_ids_may_start_anywhere(tmp_path: Path, first: int) -> None:
    images(tmp_path, "a.png")
    content = coco(["a.png"], [box(category=first + 1)], (first, first + 1))
    reader = ObjectReader(write(tmp_path / "coco.json", content))
    assert reader.class_names == ("cat", "dog")
    assert reader.target(0)["classes"].tolist() == [1]


FAULTY = {
    "box with NaN": [float("nan"), 10, 100, 50],
    "box without area": [20, 10, 0, 50],
    "box outside the image": [-20, 10, 100, 50],
    "inverted corners": [120, 60, -100, -50],
    "duplicate box": [20, 10, 100, 50],
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_box_is_said_and_does_not_end_the_work(tmp_path: Path, kind: str) -> None:
    images(tmp_path, "a.png", "b.png")
    content = coco(["a.png", "b.png"], [box(), box(bbox=FAULTY[kind]), box(11, 2)])
    reader = ObjectReader(write(tmp_path / "coco.json", content))
    boxes = reader.target(0)["boxes"]
    assert len(boxes) == (2 if kind == "box outside the image" else 1)
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert any(line.startswith(f"{kind} (") and line.endswith(" 1.") for line in reader.warnings)
    faults = list(reader.label_faults())
    assert ("a.png", kind) in [(fault.key, fault.kind) for fault in faults]
    assert all("cat at " in fault.detail for fault in faults if fault.kind == kind)


corners = st.floats(-3, 3, width=32) | st.just(float("nan")) | st.just(float("inf"))


@given(lines=st.lists(st.tuples(st.integers(-1, 4), *[corners] * 4), max_size=8))
def test_any_lines_become_valid_boxes(
    lines: list[tuple[float, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    for name in ("a", "b"):
        (folder / f"{name}.png").touch()
    write(folder / "b.txt", "0 0.5 0.5 0.5 0.5")
    write(folder / "a.txt", "".join(f"{' '.join(map(repr, line))}\n" for line in lines))
    write(folder / "classes.txt", "cat\ndog\n")
    target = ObjectReader(folder).target(0)
    boxes = target["boxes"]
    assert len(boxes) <= len(lines)
    assert np.isfinite(boxes).all()
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert set(target["classes"].tolist()) <= {0, 1}
    rows = np.concatenate([boxes, target["classes"][:, None]], axis=1)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_ten_thousand_boxes_in_one_image(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    many = [box(bbox=[i % 100, i // 100, 5, 5]) for i in range(10_000)]
    reader = ObjectReader(write(tmp_path / "coco.json", coco(["a.png"], many)))
    assert len(reader.target(0)["boxes"]) == 10_000


def test_class_numbers_beyond_the_names(tmp_path: Path) -> None:
    write_format(tmp_path, "yolo")
    write(tmp_path / "labels/train/b.txt", "0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.2 0.2\n")
    reader = ObjectReader(tmp_path)
    assert "unknown class (omitted): 1." in reader.warnings
    (fault,) = [fault for fault in reader.label_faults() if fault.kind == "unknown class"]
    assert fault.detail.startswith("class 7 at")


def test_faults_of_a_coco_file(tmp_path: Path) -> None:
    images(tmp_path / "images", "a.png", "b.png", "c.png", "unlisted.png")
    content = coco(
        ["a.png", "b.png", "gone.png", "c.png"],
        [
            box(),
            box(99),
            box(12),
            box(11, 5),
            {"image_id": 10},
            box(bbox="none"),
            box(iscrowd=1, bbox=[0, 0, 10, 10]),
        ],
    )
    content["images"].append({"id": 13, "file_name": "b.png"})  # the id of c.png
    content["annotations"][1]["id"] = 0
    reader = ObjectReader(write(tmp_path / "coco.json", content))
    assert [reader.key(i) for i in range(len(reader))] == ["images/a.png", "images/b.png"]
    assert reader.target(0)["crowd"].tolist() == [False, True]
    kinds = {fault.kind for fault in reader.label_faults()}
    assert kinds >= {
        *("label without image", "duplicate id", "invalid annotation", "unknown class"),
        "image without labels",
    }
    text = "\n".join(reader.warnings)
    assert "annotations whose id occurs twice, used as they are: 1." in text
    assert "annotations without an image, omitted: 2." in text
    assert "images that the annotation files do not list, ignored: 2." in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"images": [], "annotations": [', "damaged after"),
        ('{"images": [{"id": 1}], "annotations": []}', "no file_name"),
        ('{"annotations": [], "categories": []}', "has no list 'images'"),
        ({"images": [], "annotations": [], "categories": []}, "has no usable images"),
        (coco(["gone.png"], [box()]), "none of the 1 images"),
        (coco(["a.png"], []), "has no boxes"),
        ({**coco(["a.png"], [box()], (1, 1))}, "two categories with the id 1"),
        ("[1, 2]", "format is unknown"),
    ],
)
def test_unusable_coco_files(tmp_path: Path, content: Any, message: str) -> None:
    images(tmp_path, "a.png")
    with pytest.raises(UserError, match=message):
        ObjectReader(write(tmp_path / "coco.json", content))


VOC_SIZE = f"<size><width>{10**12}</width><height>1e400</height></size>"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", '<?xml version="1.0" encoding="nope"?><annotation/>'),
        ("a.json", '{"shapes": [{"label": "a", "points": [], "shape_type": "point"}]}'),
        ("a.json", f'{{"shapes": [], "imageWidth": {"9" * 400}, "imageHeight": 1e999}}'),
        ("a.xml", f"<annotation>{VOC_SIZE}</annotation>"),
    ],
)
def test_a_file_of_one_image_never_ends_the_work(tmp_path: Path, name: str, content: str) -> None:
    images(tmp_path, "a.png", "b.png")
    write(tmp_path / name, content)
    shape = {"label": "cat", "points": [[1, 2], [30, 40]], "shape_type": "rectangle"}
    valid: dict[str, Any] = {
        ".xml": "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
        "<xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>",
        ".json": {"shapes": [shape]},
    }
    write(tmp_path / f"b{Path(name).suffix}", valid[Path(name).suffix])
    reader = ObjectReader(tmp_path)
    last = reader.target(len(reader) - 1)
    np.testing.assert_allclose(last["boxes"], [[1 / 200, 2 / 100, 30 / 200, 40 / 100]], atol=1e-6)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([{"id": 10, "file_name": name} for name in ("a.png", "b.png")], "has no usable images"),
        ([{"id": [1], "file_name": "a.png"}], "the image id is of type list"),
    ],
)
def test_ids_of_coco_that_name_no_image(tmp_path: Path, listed: Any, message: str) -> None:
    images(tmp_path, "a.png", "b.png")
    content = {**coco(["a.png", "b.png"], [box()]), "images": listed}
    with pytest.raises(UserError, match=message):
        ObjectReader(write(tmp_path / "coco.json", content))


def test_classes_that_change_between_files(tmp_path: Path) -> None:
    images(tmp_path, "train/a.png", "valid/a.png")
    write(tmp_path / "train/_annotations.coco.json", coco(["a.png"], [box(category=2)]))
    content = coco(["a.png"], [box(category=1)], (2, 1))
    content["categories"].append({"id": 3, "name": "Cat "})
    write(tmp_path / "valid/_annotations.coco.json", content)
    reader = ObjectReader(tmp_path)
    assert reader.class_names == ("cat", "dog", "Cat")
    assert [reader.target(i)["classes"].tolist() for i in range(2)] == [[1], [1]]
    assert [reader.key(int(i)) for i in reader.indices("val")] == ["valid/a.png"]
    text = "\n".join(data_warnings(reader))
    assert "differ in case or spaces only: 'cat' and 'Cat'" in text
    assert "2 classes ('cat', 'Cat'): no training images" in text


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "x"><!ENTITY y "&x;&x;&x;&x;">]>
<annotation><object><name>&y;</name></object></annotation>"""
EXTERNAL = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&x;</name></object></annotation>"""


@pytest.mark.parametrize(
    "content", [BOMB, EXTERNAL, BOMB.encode("utf-16"), "", "<annotation>", "\0", "&x;"]
)
def test_xml_that_is_not_read(tmp_path: Path, content: str | bytes) -> None:
    write_format(tmp_path, "voc")
    path = tmp_path / "Annotations/b.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    reader = ObjectReader(tmp_path)
    assert [reader.key(i) for i in range(len(reader))] == ["JPEGImages/a.png"]
    (fault,) = [f for f in reader.label_faults() if f.kind == "unreadable labels"]
    assert fault.key == "JPEGImages/b.png"
    assert ("entities" in fault.detail) == ("ENTITY" in str(content) or isinstance(content, bytes))
    assert any("cannot be read, omitted: 1 (Annotations/b.xml)" in w for w in reader.warnings)


def test_pascal_voc(tmp_path: Path) -> None:
    """Lists of images, difficult objects, sizes that are missing, parts of a person."""
    images(tmp_path / "JPEGImages", "a.png", "b.png", "c.png")
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
    person = voc_object("person", more=f"{part}</bndbox></part><difficult>1</difficult>")
    write(tmp_path / "Annotations/a.xml", voc(voc_object(), person, size=""))
    write(tmp_path / "Annotations/b.xml", voc(voc_object(), voc_object(corners="1 2 x 4")))
    write(tmp_path / "Annotations/d.xml", voc(voc_object()))
    write(tmp_path / "ImageSets/Main/train.txt", "a\n")
    write(tmp_path / "ImageSets/Main/val.txt", "b\n")
    reader = ObjectReader(tmp_path)
    np.testing.assert_allclose(reader.target(0)["boxes"], [BOX, BOX], atol=1e-6)
    assert reader.target(0)["crowd"].tolist() == [False, True]
    assert reader.class_names == ("cat", "person")
    assert [reader.key(int(i)) for i in reader.indices("val")] == ["JPEGImages/b.png"]
    kinds = [fault.kind for fault in reader.label_faults()]
    assert "invalid annotation" in kinds
    assert "label without image" in kinds


def test_kitti_regions_without_labels_are_crowds_of_every_class(tmp_path: Path) -> None:
    write_format(tmp_path, "kitti")
    numbers = "0.00 0 -1.57 {} 10.00 120.00 60.00 1 1 1 0 0 0 0\n"
    text = "".join(f"{name} {numbers.format(i)}" for i, name in enumerate(("dog", "DontCare")))
    write(tmp_path / "training/label_2/b.txt", text)
    reader = ObjectReader(tmp_path)
    assert reader.class_names == ("cat", "dog")
    target = reader.target(1)
    assert sorted(zip(target["classes"].tolist(), target["crowd"].tolist(), strict=True)) == [
        (0, True),
        (1, False),
        (1, True),
    ]


def test_yolo_without_names_and_in_rows_of_a_score(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    write(tmp_path / "a.txt", "2 0.35 0.35 0.5 0.5 0.9\nx\n1 2\n\n0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    reader = ObjectReader(tmp_path)
    assert reader.class_names == ("0", "1", "2")
    np.testing.assert_allclose(reader.target(0)["boxes"], [BOX, BOX], atol=1e-6)
    assert sum(fault.kind == "invalid annotation" for fault in reader.label_faults()) == 2


def test_two_lists_of_names_differ(tmp_path: Path) -> None:
    write_format(tmp_path, "yolo")
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", "cat\n")
    write(tmp_path / "labels/classes.txt", "dog\n")
    with pytest.raises(UserError, match="name different classes"):
        ObjectReader(tmp_path)


def test_the_split_is_drawn_by_the_rarest_class(tmp_path: Path) -> None:
    names = [f"{i:03d}.png" for i in range(100)]
    for name in names:
        (tmp_path / name).touch()
    annotations = [box(10 + i) for i in range(100)] + [box(10 + i, 2) for i in range(10)]
    reader = ObjectReader(write(tmp_path / "coco.json", coco(names, annotations)))
    assert [reader.counts(mode).tolist() for mode in ("train", "val", "test")] == [
        [80, 8],
        [10, 1],
        [10, 1],
    ]
    kept = ObjectReader(tmp_path / "coco.json", exclusions=["000.png"])
    assert kept.key(0) == "001.png"
    np.testing.assert_array_equal(kept.target(9)["classes"], reader.target(10)["classes"])


# ------------------------------------------------------------------------- polygons and keypoints


def test_polygons_and_run_lengths(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    ring = np.zeros((100, 200), np.uint8)
    ring[10:60, 20:120], ring[20:50, 40:100] = 1, 0
    flat = ring.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    square = [0, 0, 20, 0, 20, 10, 0, 10]
    annotations = [
        box(segmentation=[square, [50, 50, 60, 50, 60, 60]]),
        box(category=2, segmentation={"size": [100, 200], "counts": counts}),
        box(iscrowd=1, bbox=[0, 0, 9, 9], segmentation=[square]),
    ]
    reader = MaskReader(write(tmp_path / "coco.json", coco(["a.png"], annotations)))
    assert reader.class_names == ("background", "cat", "dog")
    target = reader.target(0)
    assert target["classes"].tolist() == [1, 1, 2, 2, 255]
    assert target["objects"].tolist() == [0, 1, 2, 2, 3]
    np.testing.assert_allclose(target["polygons"][0][1], [0.1, 0])
    np.testing.assert_array_equal(decode_rle(100, 200, counts), ring)
    drawn = np.zeros_like(ring)
    pixels = [np.rint(p * SIZE - 0.5).astype(np.int32) for p in target["polygons"][2:4]]
    import cv2

    cv2.fillPoly(drawn, pixels, 1)
    np.testing.assert_array_equal(drawn, ring)


def test_boxes_without_polygons_are_no_masks(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    write(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "b.txt", "1 0.1 0.1 0.6 0.1 0.6 0.6\n0 0.5 0.5 0.2 0.2\n")
    reader = MaskReader(tmp_path)
    assert [len(reader.target(i)["polygons"]) for i in range(2)] == [0, 1]
    assert reader.presence().tolist() == [[False, False, False], [False, False, True]]
    assert "objects without a polygon, omitted: 2." in reader.warnings
    write(tmp_path / "b.txt", "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match="For boxes, use the task detection"):
        MaskReader(tmp_path)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=12))
def test_run_lengths_as_text(runs: list[int]) -> None:
    """By the definition in maskApi.c of pycocotools: ``rleToString``."""
    text = bytearray()
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            code = value & 31
            value >>= 5
            more = value != -1 if code & 16 else value != 0
            text.append(code + 48 + 32 * more)
    expected = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(decode_rle(sum(runs), 1, bytes(text))[:, 0], expected)
    np.testing.assert_array_equal(decode_rle(sum(runs), 1, runs)[:, 0], expected)


@pytest.mark.parametrize("counts", [[1, 2], [-1, 5], b"5", b"\x00", b"o"])
def test_run_lengths_of_another_size(counts: Any) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        decode_rle(2, 2, counts)


def test_tracing_restores_any_mask() -> None:
    import cv2

    for seed in range(20):
        mask = (np.random.default_rng(seed).random((17, 23)) < 0.6).astype(np.uint8)
        drawn = np.zeros_like(mask)
        cv2.fillPoly(drawn, [(p - 0.5).astype(np.int32) for p in trace_polygons(mask)], 1)
        np.testing.assert_array_equal(drawn, mask)


def assert_points(reader: KeypointReader, expected: list[list[float]]) -> None:
    points = np.array(reader.target(0)["keypoints"], np.float64)
    np.testing.assert_allclose(points, np.array(expected), atol=1e-6)


def test_keypoints_of_the_largest_object(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    points = [20, 10, 2, 100, 50, 1, 0, 0, 0]
    annotations = [
        box(bbox=[0, 0, 10, 10], keypoints=[1, 1, 2] * 3),
        box(keypoints=points),
        box(11, keypoints=[0] * 9),
    ]
    content = coco(["a.png", "b.png"], annotations)
    content["categories"][0]["keypoints"] = ["nose", "eye", "ear"]
    reader = KeypointReader(write(tmp_path / "person_keypoints_train.json", content))
    assert reader.class_names == ("nose", "eye", "ear")
    assert len(reader) == 1
    expected = [[0.1, 0.1, 2.0], [0.5, 0.5, 1.0], [0.0, 0.0, 0.0]]
    assert_points(reader, expected)
    assert "images without keypoints, omitted: 1." in reader.warnings
    with pytest.raises(UserError, match="no keypoints"):
        KeypointReader(write(tmp_path / "other.json", coco(["a.png"], [box()])))


def test_the_check_names_faults_of_keypoints(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    page = coco(
        ["a.png", "b.png"],
        [
            box(keypoints=[20, 10, 2, 500, 10, 2]),
            box(image=11, keypoints=[20, 10, 2]),
            box(image=11, bbox=[0, 0, 5, 5], keypoints=[20, 10, 3, 20, 10, 2]),
        ],
    )
    page["categories"][0]["keypoints"] = ["nose", "ear"]
    write(tmp_path / "annotations.json", page)
    kinds = [
        (f.kind, f.detail) for f in check_images(open_dataset(tmp_path), 1) if f.key.endswith("png")
    ]
    assert kinds == [
        ("point outside the image", "ear at 2.5, 0.1, visibility 2"),
        ("visibility", "nose at 0.1, 0.1, visibility 3"),
        ("duplicate point", "ear at 0.1, 0.1, visibility 2"),
        ("number of keypoints", "3 numbers of keypoints; expected 3 x 2"),
    ]


def test_keypoints_of_yolo(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    write(tmp_path / "data.yaml", "kpt_shape: [2, 3]\nnames: {0: face}\n")
    write(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 1.6 2\n")
    assert_points(KeypointReader(tmp_path), [[0.4, 0.4, 2.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("name", ["voc", "kitti"])
def test_boxes_are_no_keypoints_and_no_masks(tmp_path: Path, name: str) -> None:
    write_format(tmp_path, name)
    with pytest.raises(UserError, match=r"no keypoints.*COCO, YOLO, LabelMe"):
        KeypointReader(tmp_path)
    with pytest.raises(UserError, match="has no masks"):
        MaskReader(tmp_path)


def test_labels_of_one_split_are_not_those_of_another(tmp_path: Path) -> None:
    images(tmp_path, "train/images/1.png", "train/images/2.png", "valid/images/3.png")
    write(tmp_path / "train/labels/1.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "valid/labels/2.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "valid/labels/3.txt", "")
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    reader = ObjectReader(tmp_path / "data.yaml")
    found = {reader.key(i): len(reader.target(i)["boxes"]) for i in range(len(reader))}
    assert found == {"train/images/1.png": 1, "train/images/2.png": 0, "valid/images/3.png": 0}
    assert [reader.key(int(i)) for i in reader.indices("val")] == ["valid/images/3.png"]
    assert "label without image" in {fault.kind for fault in reader.label_faults()}


def test_label_files_without_lines(tmp_path: Path) -> None:
    images(tmp_path, "images/1.png")
    write(tmp_path / "labels/1.txt", "")
    write(tmp_path / "classes.txt", "cat\n")
    with pytest.raises(UserError, match=r"\(YOLO: .*\) has no boxes in its 1 images"):
        ObjectReader(tmp_path)


def test_the_check_names_faults_of_boxes(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    content = coco(["a.png", "b.png"], [box(), box(bbox=[20, 10, 0, 5]), box(category=9)])
    findings = check_images(open_dataset(write(tmp_path / "coco.json", content)), threads=1)
    found = {(finding.key, finding.kind) for finding in findings}
    assert found >= {
        ("a.png", "box without area"),
        ("a.png", "unknown class"),
        ("b.png", "image without labels"),
        ("dog", "unused class"),
    }
    assert not any(finding.exclude for finding in findings)


def test_the_check_names_images_of_another_size_than_declared(tmp_path: Path) -> None:
    """Of a turned photo, its upright size counts."""
    images(tmp_path, "a.png", "b.png", "turned.jpg")
    with Image.open(tmp_path / "turned.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=exif)
    content = coco(["a.png", "b.png", "turned.jpg"], [box(image=10 + i) for i in range(3)])
    content["images"][1]["width"] = 2 * SIZE[0]
    findings = check_images(open_dataset(write(tmp_path / "coco.json", content)), threads=1)
    assert {(found.key, found.detail) for found in findings if "size" in found.kind} == {
        ("b.png", "declared 400 by 100, is 200 by 100"),
        ("turned.jpg", "declared 200 by 100, is 100 by 200"),
    }


def test_lists_of_images_belong_to_their_dataset(tmp_path: Path) -> None:
    """VOCdevkit holds several datasets, and lists of segmentation name the mask after the image."""
    modes: tuple[tuple[str, Mode], ...] = (("VOC2007", "val"), ("VOC2012", "train"))
    for year, split in modes:
        images(tmp_path / year / "JPEGImages", "a.png", "b.png")
        for name in "ab":
            write(tmp_path / year / f"Annotations/{name}.xml", voc(voc_object()))
        write(tmp_path / year / f"ImageSets/Main/{split}.txt", "a\n/b.png /b_mask.png\n")
        write(tmp_path / year / f"ImageSets/Main/cat_{split}.txt", "a -1\n")
    reader = ObjectReader(tmp_path)
    for year, split in modes:
        keys = [reader.key(int(i)) for i in reader.indices(split)]
        assert keys == [f"{year}/JPEGImages/a.png", f"{year}/JPEGImages/b.png"]
