"""Folders of images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from kerakit import UserError
from kerakit.data import DataReader, check_class_names, data_warnings, held_out_mode
from kerakit.data.split import MODES
from projects import write_image


def test_classes_paths_and_targets_belong_together(photos: Path) -> None:
    reader = DataReader(photos)
    assert reader.class_names == ("apple", "pear")
    assert len(reader) == len(reader.image_paths) == len(reader.targets) == 60
    assert reader.image_paths[-1] == reader.image_path(59)
    for i, path in enumerate(reader.image_paths):
        assert path.is_file()
        assert path == reader.image_path(i) == photos / reader.key(i)
        assert path.parent.name == reader.class_names[reader.target(i)]


def test_new_images_of_a_class_move_no_image_of_another(photos: Path) -> None:
    before = DataReader(photos)
    old = {before.key(i): mode for mode in MODES for i in before.indices(mode)}
    for i in range(40):
        write_image(photos / "apple" / f"new-{i}.png", seed=i)
    after = DataReader(photos)
    new = {after.key(i): mode for mode in MODES for i in after.indices(mode)}
    assert all(new[key] == old[key] for key in old if key.startswith("pear/"))
    assert after.counts("train").tolist() == [56, 24]
    assert after.counts("test").tolist() == [7, 3]


def test_a_given_split_is_kept(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("validation", 3), ("test", 2)):
        for hue, name in enumerate(("a", "b")):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", seed=i, hue=hue)
    reader = DataReader(tmp_path)
    for mode, folder, count in (
        ("train", "train", 10),
        ("val", "validation", 6),
        ("test", "test", 4),
    ):
        indices = reader.indices(mode)  # type: ignore[arg-type]
        assert len(indices) == count
        assert all(reader.key(i).startswith(f"{folder}/") for i in indices)
    assert held_out_mode(reader) == "test"


def test_validation_is_drawn_where_only_the_test_is_given(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            for i in range(50):
                write_image(tmp_path / split / name / f"{i}.png", seed=i)
    reader = DataReader(tmp_path)
    assert {reader.key(i).partition("/")[0] for i in reader.indices("test")} == {"test"}
    assert len(reader.indices("test")) == 100
    assert {reader.key(i).partition("/")[0] for i in reader.indices("val")} == {"train"}
    assert len(reader.indices("train")) + len(reader.indices("val")) == 100


def test_what_is_not_the_users_is_passed_over(photos: Path) -> None:
    write_image(photos / "__MACOSX" / "a.png", 0)
    write_image(photos / ".cache" / "a.png", 0)
    write_image(photos / "apple" / "._00.png", 0)
    (photos / "apple" / "Thumbs.db").write_bytes(b"?")
    reader = DataReader(photos)
    assert reader.class_names == ("apple", "pear")
    assert len(reader) == 60


def test_links_in_a_circle_end(photos: Path) -> None:
    (photos / "apple" / "again").symlink_to(photos / "apple")
    assert len(DataReader(photos)) == 60


def test_images_below_a_class_belong_to_it(photos: Path) -> None:
    write_image(photos / "apple" / "red" / "sweet" / "1.JPG", 0)
    reader = DataReader(photos)
    assert reader.target([reader.key(i) for i in range(61)].index("apple/red/sweet/1.JPG")) == 0


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def only_files(folder: Path) -> None:
    for path in (folder / "apple").iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / "apple")
    shutil.rmtree(folder / "pear")


def without_images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.rename(path.with_suffix(".txt"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no folder"),
        (empty, "has no folders"),
        (only_files, "one folder per class"),
        (lambda folder: shutil.rmtree(folder / "pear"), "one class (apple)"),
        (lambda folder: empty(folder / "pear"), "'pear'"),
        (without_images, "no images"),
        (lambda folder: (folder / "pear").rename(folder / "a\nb"), "labels.txt"),
        (lambda folder: write_image(folder / "train" / "a" / "1.png", 0), "could be a split"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_explained(
    photos: Path, spoil: object, said: str
) -> None:
    spoil(photos)  # type: ignore[operator]
    with pytest.raises(UserError) as error:
        DataReader(photos)
    assert said in str(error.value)
    assert str(photos) in str(error.value)


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a" / "1.png", 0)
    write_image(tmp_path / "train" / "b" / "1.png", 0)
    write_image(tmp_path / "val" / "c" / "1.png", 0)
    with pytest.raises(UserError, match="class 'c'"):
        DataReader(tmp_path)


def test_other_classes_than_the_models_are_refused(photos: Path) -> None:
    with pytest.raises(UserError, match="pear, apple"):
        check_class_names(DataReader(photos), ("pear", "apple"))


@pytest.mark.parametrize("ratio", [2, 1, 0, -0.5, float("nan"), float("inf")])
def test_an_impossible_train_ratio_is_refused(photos: Path, ratio: float) -> None:
    with pytest.raises(UserError, match="train_ratio: expected more than 0 and less than 1, got"):
        DataReader(photos, ratio)


def test_a_batch_size_of_more_than_all_images_is_a_warning(photos: Path) -> None:
    reader = DataReader(photos)
    assert data_warnings(reader, 48) == []
    (warning,) = data_warnings(reader, 10**11)
    assert warning.startswith("--batch_size 100,000,000,000 is larger than the 48 training images")


def test_an_unknown_mode_is_named(photos: Path) -> None:
    with pytest.raises(UserError, match="'training'"):
        DataReader(photos).indices("training")  # type: ignore[arg-type]


def test_names_that_are_no_unicode_are_read(photos: Path) -> None:
    odd = os.fsdecode(os.fsencode(photos) + b"/apple/caf\xe9.png")
    shutil.copy(photos / "apple" / "00.png", odd)
    reader = DataReader(photos)
    assert len(reader) == 61
    assert np.isin(
        np.arange(61), np.concatenate([reader.indices(m) for m in ("train", "val", "test")])
    ).all()


def test_a_recipe_restores_the_split_and_its_fingerprint(photos: Path) -> None:
    odd = os.fsdecode(os.fsencode(photos) + b"/apple/caf\xe9%20.png")
    shutil.copy(photos / "apple" / "00.png", odd)
    (photos / "apple" / "01.png").rename(photos / "apple" / "50%25.png")
    excluded = [os.fsdecode(b"apple/caf\xe9%20.png"), "apple/50%25.png", "pear/03.png"]
    first = DataReader(photos, 0.7, 3, excluded)
    recipe = json.loads(json.dumps(first.recipe(), ensure_ascii=False).encode())
    assert first.num_excluded == 3
    restored = DataReader(photos, recipe["train_ratio"], recipe["seed"], recipe["exclusions"])
    assert restored.recipe() == recipe
    assert DataReader(photos, 0.8, 3, excluded).recipe()["fingerprint"] != recipe["fingerprint"]
    assert sum(recipe["counts"].values()) == len(restored) == 58
    (photos / "apple" / "02.png").rename(photos / "pear" / "02-again.png")
    moved = DataReader(photos, recipe["train_ratio"], recipe["seed"], recipe["exclusions"])
    assert moved.recipe()["fingerprint"] != recipe["fingerprint"]
