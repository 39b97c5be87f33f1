"""Masks as image files: pairs, classes by files or values, colors, faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerakit import UserError
from kerakit.data import MaskReader, data_warnings, recognize
from kerakit.data.check import check_images, open_dataset
from projects import write_image

SIZE = (20, 16)


def write_mask(path: Path, values: Any, mode: str = "L", size: tuple[int, int] = SIZE) -> None:
    """Write columns of equal width, one per value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.array(values, np.uint8)
    pixels = np.repeat(columns[None], size[1], axis=0)
    pixels = np.repeat(pixels, size[0] // len(columns), axis=1)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("L")
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(path)


def write_pairs(folder: Path, pairs: dict[str, str], values: Any = (0, 1, 2, 255)) -> None:
    for i, (image, mask) in enumerate(pairs.items()):
        write_image(folder / image, i, SIZE)
        write_mask(folder / mask, values)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/1.jpg", "masks/1.png"),
        ("train/images/1.png", "train/masks/1.png"),
        ("images/train/1.png", "annotations/train/1.png"),
        ("train/1.png", "trainannot/1.png"),
        ("JPEGImages/1.jpg", "SegmentationClass/1.png"),
        ("leftImg8bit/train/b/b_0_leftImg8bit.png", "gtFine/train/b/b_0_gtFine_labelIds.png"),
        ("images/1.png", "masks/1_mask.png"),
        ("images/1.png", "labels/1_L.png"),
        ("1.jpg", "1_mask.png"),
        ("a/images/1.jpg", "b/masks/1.png"),
        ("img_dir/train/1.jpg", "ann_dir/train/1.png"),
    ],
)
def test_pairs_of_names(tmp_path: Path, image: str, mask: str) -> None:
    write_pairs(tmp_path, {image: mask})
    assert recognize(tmp_path).name == "masks"
    reader = MaskReader(tmp_path)
    assert [reader.key(i) for i in range(len(reader))] == [image]
    assert reader.target(0) == {"mask": str(tmp_path / mask)}
    assert reader.class_names == ("0", "1", "2")
    if "train" in image:
        assert len(reader.indices("train")) == 1


def test_names_that_occur_in_every_split(tmp_path: Path) -> None:
    names = {f"{mode}/images/1.png": f"{mode}/masks/1.png" for mode in ("train", "val", "test")}
    write_pairs(tmp_path, names)
    reader = MaskReader(tmp_path)
    for mode in ("train", "val", "test"):
        (i,) = reader.indices(mode)
        assert reader.key(i) == f"{mode}/images/1.png"
        assert reader.target(i)["mask"].endswith(f"{mode}/masks/1.png")


def test_better_masks_come_first(tmp_path: Path) -> None:
    write_image(tmp_path / "leftImg8bit/train/a_leftImg8bit.png", 0, SIZE)
    for kind in ("color", "instanceIds", "labelIds", "labelTrainIds"):
        write_mask(tmp_path / f"gtFine/train/a_gtFine_{kind}.png", [0, 1])
    reader = MaskReader(tmp_path)
    assert reader.target(0)["mask"].endswith("labelTrainIds.png")


def test_images_and_masks_without_the_other(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"images/1.png": "masks/1.png"})
    write_image(tmp_path / "images/2.png", 2, SIZE)
    write_mask(tmp_path / "masks/3.png", [0, 1])
    reader = MaskReader(tmp_path)
    text = "\n".join(data_warnings(reader))
    assert "images without a mask, omitted: 1 (images/2.png)." in text
    assert "masks without an image, ignored: 1 (masks/3.png)." in text
    faults = {fault.key: fault.kind for fault in reader.label_faults()}
    assert faults["images/2.png"] == "image without labels"
    assert faults["masks/3.png"] == "label without image"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("classes.txt", "sky\nroad \n tree\n", ("sky", "road", "tree")),
        ("codes.txt", "0: sky\n1: road\n2: tree\n", ("sky", "road", "tree")),
        ("data.yaml", "names: {0: sky, 1: road, 2: tree}\n", ("sky", "road", "tree")),
    ],
)
def test_names_of_classes(tmp_path: Path, name: str, content: str, expected: Any) -> None:
    write_pairs(tmp_path, {"images/1.png": "masks/1.png"})
    (tmp_path / name).write_text(content)
    assert MaskReader(tmp_path).class_names == expected


def test_values_that_are_no_class_indices(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"images/1.png": "masks/1.png"}, [0, 255])
    reader = MaskReader(tmp_path)
    assert reader.class_names == ("background", "foreground")
    assert reader.target(0)["values"][[0, 1, 255]].tolist() == [0, -1, 1]
    write_mask(tmp_path / "masks/1.png", [0, 85, 170, 200])
    spread = MaskReader(tmp_path)
    assert spread.class_names == ("0", "85", "170", "200")
    assert spread.target(0)["values"][[0, 85, 170, 200, 7]].tolist() == [0, 1, 2, 3, -1]
    write_mask(tmp_path / "masks/1.png", [0, 1, 11, 11])
    ignored = MaskReader(tmp_path, class_names=["sky", "road"], ignore=[11])
    assert ignored.class_names == ("sky", "road")
    assert ignored.target(0)["values"][[0, 1, 11, 255, 7]].tolist() == [0, 1, 255, 255, -1]


COLORS = [[0, 0, 0], [128, 0, 0], [0, 0, 255], [128, 0, 0]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_dict.csv", "name,r,g,b\nsky,128,0,0\nroad,0,0,255\n"),
        ("class_dict.csv", "name;r;g;b\nsky;128;0;0\n;\nroad;0;0;255\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:128,0,0::\nroad:0,0,255::\n"),
        ("label_colors.txt", "128 0 0\t\tsky\n0 0 255\t\troad\n"),
    ],
)
def test_tables_of_colors(tmp_path: Path, name: str, content: str) -> None:
    write_pairs(tmp_path, {"images/1.png": "masks/1.png"}, COLORS)
    (tmp_path / name).write_text(content)
    reader = MaskReader(tmp_path)
    assert reader.class_names == ("sky", "road")
    assert reader.colors == ((128, 0, 0), (0, 0, 255))
    assert not list(reader.label_faults())
    write_mask(tmp_path / "masks/1.png", [*COLORS[:3], [9, 9, 8]])
    (fault,) = MaskReader(tmp_path).label_faults()
    assert (fault.kind, fault.detail) == ("unknown mask value", "(9, 9, 8)")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1000), "have the values 0, 1000. Expected class indices of 0 to 254"),
        ((), "cannot read"),
    ],
)
def test_masks_of_sixteen_bits_and_without_content(
    tmp_path: Path, values: tuple[int, ...], message: str
) -> None:
    write_image(tmp_path / "images/a.png", 0)
    (tmp_path / "masks").mkdir()
    if values:
        Image.fromarray(np.array([values] * 2, np.uint16)).save(tmp_path / "masks/a.png")
    else:
        (tmp_path / "masks/a.png").touch()
    with pytest.raises(UserError, match=message):
        MaskReader(tmp_path)


def test_colors_without_a_table(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"images/1.png": "masks/1.png"}, COLORS)
    reader = MaskReader(tmp_path)
    assert reader.class_names == ("#000000", "#0000ff", "#800000")
    named = MaskReader(tmp_path, class_names=["sky", "road"], colors=[(128, 0, 0), (0, 0, 255)])
    assert named.class_names == ("sky", "road")
    with pytest.raises(UserError, match="2 class_names, but 1 colors"):
        MaskReader(tmp_path, class_names=["sky", "road"], colors=[(128, 0, 0)])
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(UserError, match=r"names no colors. Add a table class_dict\.csv"):
        MaskReader(tmp_path)


def test_photos_as_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "images/1.png", 0, SIZE)
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise).save(tmp_path / "masks/1.png")
    with pytest.raises(UserError, match="more than 255 colors"):
        MaskReader(tmp_path)


def test_indexed_masks_have_their_indices(tmp_path: Path) -> None:
    write_image(tmp_path / "images/1.png", 0, SIZE)
    write_mask(tmp_path / "masks/1.png", [0, 3], "P")
    assert MaskReader(tmp_path).class_names == ("0", "1", "2", "3")


def test_faults_of_masks(tmp_path: Path) -> None:
    names = {f"images/{i}.png": f"masks/{i}.png" for i in range(5)}
    write_pairs(tmp_path, names)
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\n")
    write_mask(tmp_path / "masks/1.png", [0, 7])
    write_mask(tmp_path / "masks/2.png", [0, 1], size=(10, 8))
    write_mask(tmp_path / "masks/3.png", COLORS)
    (tmp_path / "masks/4.png").write_bytes(b"no image")
    reader = MaskReader(tmp_path)
    faults = {fault.key: (fault.kind, fault.detail) for fault in reader.label_faults()}
    assert faults["images/1.png"] == ("unknown mask value", "7")
    assert faults["images/2.png"] == ("mask of another size", "10 by 8, its image 20 by 16")
    assert faults["images/3.png"][0] == "mask in colors"
    assert faults["images/4.png"][0] == "unreadable mask"
    assert "images/0.png" not in faults


def test_the_check_names_the_faults(tmp_path: Path) -> None:
    write_pairs(tmp_path, {f"images/{i}.png": f"masks/{i}.png" for i in range(4)})
    (tmp_path / "classes.txt").write_text("Tree top\ntree_top\nsky\n")
    write_mask(tmp_path / "masks/1.png", [0, 7])
    findings = check_images(open_dataset(tmp_path), threads=1)
    found = {(finding.key, finding.kind, finding.detail) for finding in findings}
    assert ("images/1.png", "unknown mask value", "7") in found
    assert ("Tree top", "similar class names", "'tree_top'") in found
    assert not any(finding.exclude for finding in findings)


def test_a_table_with_masks(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1.png": "x/1.png", "2.png": "x/2.png"})
    table = tmp_path / "labels.csv"
    table.write_text("path,mask,group\n1.png,x/1.png,a\n2.png,gone.png,a\n")
    reader = MaskReader(table)
    assert [reader.key(i) for i in range(len(reader))] == ["1.png"]
    assert reader.target(0) == {"mask": str(tmp_path / "x/1.png")}
    assert "images whose mask does not exist, omitted: 1 (gone.png)." in reader.warnings
    table.write_text("path,mask\n1.png,gone.png\n")
    with pytest.raises(UserError, match="none of the 1 masks"):
        MaskReader(table)
    table.write_text("path,label\n1.png,cat\n")
    with pytest.raises(UserError, match="no column 'mask'"):
        MaskReader(table)


def test_classes_named_mask_are_no_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("mask", "nomask"):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name / "1.jpg")
    assert recognize(tmp_path).name == "classes"
