"""Layouts of folders: splits, classes, system folders, links, files that are not images."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from kerakit import UserError
from kerakit.data import DataReader, data_warnings, read_image
from kerakit.data.split import MODES, parse_split
from projects import write_image


def fill(root: Path, *folders: str, count: int = 2) -> None:
    for hue, folder in enumerate(folders):
        for i in range(count):
            write_image(root / folder / f"{i}.png", 10 * hue + i, hue=hue)


def sides(reader: DataReader) -> dict[str, str]:
    return {reader.key(i): mode for mode in MODES for i in reader.indices(mode)}


@pytest.mark.parametrize(
    ("train", "other", "mode"),
    [
        ("Training", "Testing", "test"),
        ("Train", "Test", "test"),
        ("TRAIN", "TEST", "test"),
        ("train-set", "test-set", "test"),
        ("trainset", "valset", "val"),
        ("training", "validation", "val"),
        ("train", "valid", "val"),
        ("train", "dev", "val"),
        ("train_images", "val_images", "val"),
        ("images_train", "images_test", "test"),
        ("TrainImages", "TestImages", "test"),
        ("training_data", "Validation Data", "val"),
        ("seg_train", "seg_test", "test"),
        ("train2017", "val2017", "val"),
        ("flowers-train", "flowers-test", "test"),
        ("1_train", "1_test", "test"),
        ("01_train", "02_test", "test"),
        ("train.v2", "valid", "val"),
    ],
)
def test_folders_of_splits_are_recognized(
    tmp_path: Path, train: str, other: str, mode: str
) -> None:
    fill(tmp_path, f"{train}/a", f"{train}/b", f"{other}/a", f"{other}/b")
    reader = DataReader(tmp_path)
    assert reader.class_names == ("a", "b")
    found = sides(reader)
    assert all(side == mode for key, side in found.items() if key.startswith(f"{other}/"))
    assert any(side == "train" for key, side in found.items() if key.startswith(f"{train}/"))
    assert data_warnings(reader) == []


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("test", "control"),
        ("testosterone", "training shoes", "valley"),
        ("train", "tram", "training"),
        ("valid", "void", "expired"),
        ("train_old", "train_new"),
        ("test/2023", "test/2024", "sample"),
    ],
)
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, classes: tuple[str, ...]) -> None:
    fill(tmp_path, *classes)
    expected = sorted({name.split("/")[0] for name in classes})
    assert list(DataReader(tmp_path).class_names) == expected


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("train", "test"), "could be a split or classes"),
        (("Train", "Test", "valid"), "could be a split or classes"),
        (("train/a", "train/b", "bus"), "could be a split or classes"),
        (("a", "b", "test/a", "test/b"), "could be a split or classes"),
        (("val/a", "val/b", "test/a", "test/b"), "could be a split or classes"),
        (("train/a", "train/b", "Training/a", "test/a"), "two folders for one split"),
        (("train/a", "train/b", "val/a", "valid/b"), "two folders for one split"),
        (("train/a", "train/b", "test/A"), "has the class 'A'"),
        (("photos/a", "photos/b"), "pass "),
    ],
)
def test_ambiguous_folders_are_an_error(
    tmp_path: Path, folders: tuple[str, ...], said: str
) -> None:
    fill(tmp_path, *folders)
    with pytest.raises(UserError, match=said):
        DataReader(tmp_path)


def test_folders_beside_splits_and_images_beside_classes_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "test/a", "test/b", "backup/a", ".")
    (tmp_path / "README.txt").write_text("photos")
    reader = DataReader(tmp_path)
    assert len(reader) == 8
    assert data_warnings(reader) == [
        "folders beside test, train, ignored: 1 (backup).",
        "images outside class folders, ignored: 2 (0.png, 1.png).",
    ]


def test_a_split_inside_a_folder_of_the_same_name(tmp_path: Path) -> None:
    fill(tmp_path, *(f"seg_{m}/seg_{m}/{c}" for m in ("train", "test") for c in ("sea", "street")))
    reader = DataReader(tmp_path)
    assert reader.class_names == ("sea", "street")
    assert sides(reader)["seg_test/seg_test/sea/0.png"] == "test"


SYSTEM = (
    *("@eaDir", "lost+found", "$RECYCLE.BIN", "__MACOSX", ".ipynb_checkpoints", ".hidden"),
    *("System Volume Information", "#recycle", "@Recycle", "__pycache__"),
)


def test_system_folders_are_skipped(photos: Path) -> None:
    for name in SYSTEM:
        write_image(photos / name / "a.png", 0)
        write_image(photos / "apple" / name / "00.png" / "thumb.jpg", 0)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (photos / "apple" / name).write_bytes(b"?")
    reader = DataReader(photos)
    assert reader.class_names == ("apple", "pear")
    assert len(reader) == 60
    assert data_warnings(reader) == []


def test_files_of_unknown_extensions_are_decided_by_content(photos: Path) -> None:
    image = Image.open(photos / "apple" / "00.png")
    kinds = {
        **dict.fromkeys(("a.jfif", "b.jpe", "c.jpg_large", "d.JFIF", "e", "f.0001"), "JPEG"),
        **dict.fromkeys(("g.ppm", "h.image"), "PPM"),
        "i.download": "WEBP",
        "j.bin": "BMP",
    }
    for name, kind in kinds.items():
        image.save(photos / "apple" / name, kind)
    image.convert("L").save(photos / "apple" / "k.pgm", "PPM")
    (photos / "apple" / "notes.md").write_text("BMW, and other cars of the collection")
    (photos / "pear" / "labels.txt").write_text("P1 patient")
    (photos / "pear" / "no_image.bin").write_bytes(b"")
    os.mkfifo(photos / "pear" / "pipe")
    (photos / "pear" / "gone").symlink_to("nowhere")
    reader = DataReader(photos)
    keys = {reader.key(i) for i in range(len(reader))}
    new = {f"apple/{name}" for name in (*kinds, "k.pgm")}
    assert new <= keys
    assert len(keys) == 60 + len(new)
    for key in new:
        assert read_image(photos / key, (8, 8)).shape == (8, 8, 3)
    (warning,) = data_warnings(reader)
    assert warning.startswith("files that are not images of a supported format, ignored: 5 (")


def test_names_that_look_alike_are_one_class_and_case_is_named(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(tmp_path, f"train/{nfc}", f"train/{nfd} ", "train/Cat", "train/cat", f"val/{nfd}")
    reader = DataReader(tmp_path)
    assert reader.class_names == ("Cat", nfc, "cat")
    assert reader.counts("train").tolist() == [2, 4, 2]
    assert reader.counts("val").tolist() == [0, 2, 0]
    assert all(reader.image_path(i).is_file() for i in range(len(reader)))
    assert "'Cat' and 'cat'" in data_warnings(reader)[0]


def test_links_are_followed_once_and_named_and_never_into_the_system(
    photos: Path, tmp_path: Path
) -> None:
    outside = write_image(tmp_path / "outside" / "1.png", 1).parent
    write_image(outside / "deep" / "2.png", 2)
    (outside / "deep" / "back").symlink_to(outside)
    links: dict[str, Path | str] = {
        "out": outside,
        "out_again": outside,
        "up": photos,
        "root": "/",
        "self": "self",
    }
    for name, target in links.items():
        (photos / "apple" / name).symlink_to(target)
    (photos / "apple" / "inside").symlink_to(photos / "pear")
    (photos / "pear" / "file.png").symlink_to(outside / "1.png")
    (photos / "pear" / "kernel.png").symlink_to("/proc/version")
    for name, target in {"proc": "/proc", "sys": "/sys/kernel", "dev": "/dev"}.items():
        (photos / "pear" / name).symlink_to(target)
        (photos / name).symlink_to(target)
    (photos / "all").symlink_to(photos)
    (photos / "plum").symlink_to(outside)
    reader = DataReader(photos)
    assert reader.class_names == ("apple", "pear", "plum")
    keys = {reader.key(i) for i in range(len(reader))}
    # out and out_again are one folder, and inside has the pears.
    assert {"apple/out/1.png", "apple/out/deep/2.png"} < keys or {"apple/out_again/1.png"} < keys
    assert len(keys) == 60 + 2 + 31 + 1 + 2
    unfollowed, left, others = reader.warnings
    assert "not followed" in unfollowed
    assert ": 16 (" in unfollowed
    assert left.startswith(f"links that leave {photos}: 4 (")
    assert others.endswith("1 (apple/self).")
    with pytest.raises(UserError, match="of the system"):
        DataReader(Path("/proc"))


@pytest.mark.skipif(os.geteuid() != 0, reason="drops the permissions of root")
def test_an_unreadable_subfolder_is_named(photos: Path) -> None:
    write_image(photos / "apple" / "locked" / "1.png", 0).parent.chmod(0)
    locked = photos.parent / "locked"
    fill(locked, "a", "b")
    (locked / "b").chmod(0)
    source = (
        "import os, sys; from kerakit.data import DataReader, data_warnings, read_image\n"
        "import kerakit.data.check; os.chdir('/'); os.setuid(65534)\n"
        "print(*data_warnings(DataReader(sys.argv[1])), sep='\\n')\n"
        "try: DataReader(sys.argv[2])\n"
        "except Exception as error: print(error)"
    )
    for parent in [photos, locked, *photos.parents[:4]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", source, photos, locked], capture_output=True, text=True, check=False
    )
    assert done.stdout == (
        "unreadable folders, whose images are omitted: 1 (apple/locked (Permission denied)).\n"
        f"class 'b' in {locked}: no training images. Unreadable folders, whose images are omitted: "
        "1 (b (Permission denied)). Add some, or remove the class.\n"
    ), done.stderr


def test_names_of_splits() -> None:
    for name in ("train", "Training Set", "train-images", "TRAINSET", "trn", "train_"):
        assert parse_split(name) == ("train", ())
    for name in ("val", "Validation", "valid", "dev", "eval"):
        assert parse_split(name) == ("val", ())
    for name in ("", "train_test", "tset", "trainer", "values", "contest", "latest"):
        assert parse_split(name)[0] is None
