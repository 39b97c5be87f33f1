"""Crop, resize policy and color: the same pixels in training, the gate, predict and on devices."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digits import open_bundle
from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, Preprocessing, open_cache, read_image
from kerakit.deploy import held_out
from kerakit.deploy.bundle import read_as_device
from kerakit.deploy.held_out import as_device, check_preprocess
from projects import Project, edit

POLICIES = ("stretch", "letterbox", "center_crop")
fractions = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.6, 1), st.floats(0.6, 1))


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from(POLICIES),
    fractions,
    st.sampled_from(["rgb", "gray"]),
    st.sampled_from(["jpeg", "png"]),
    st.integers(1, 8),
)
def test_training_and_device_read_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    wanted: tuple[int, int],
    resize: str,
    crop: tuple[float, float, float, float],
    color: str,
    extension: str,
    orientation: int,
) -> None:
    policy = Preprocessing(resize, crop, color)
    path = tmp_path_factory.getbasetemp() / f"preprocessed.{extension}"
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0]))[..., None] * [1, 2, 3] // 5
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp.astype(np.uint8)).save(path, exif=exif)
    here, there = read_image(path, wanted, policy), read_as_device(path, wanted, policy)
    assert here.shape == there.shape == (wanted[1], wanted[0], 3)
    assert here.dtype == there.dtype == np.uint8
    upright = size if orientation < 5 else size[::-1]
    resized = policy.layout(*upright, wanted).resized
    # From a quarter on, a JPEG is scaled while it is decoded, and areas get other edge weights.
    if max(upright[0] / resized[0], upright[1] / resized[1]) < 4:
        assert np.abs(here.astype(int) - there).max() <= 1


def save(path: Path, pixels: Any) -> Path:
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def test_the_geometry_of_each_policy(tmp_path: Path) -> None:
    """A white image of 40 by 20 with a black left quarter."""
    pixels = np.full((20, 40, 3), 255)
    pixels[:, :10] = 0
    path = save(tmp_path / "a.png", pixels)

    def read(**values: Any) -> Any:
        return read_image(path, (20, 20), Preprocessing(**values))[..., 0]

    stretched = read()
    assert (stretched[:, :4] == 0).all()
    assert (stretched[:, 6:] == 255).all()
    boxed = read(resize="letterbox")
    assert (boxed[:5] == 0).all()
    assert (boxed[15:] == 0).all()
    assert (boxed[6:14, 6:] == 255).all()
    # The middle half of the width: from 10 to 30.
    assert (read(resize="center_crop") == 255).all()
    assert (read(resize="center_crop", crop=(0, 0, 0.5, 1))[:, :9] == 0).all()
    assert (read(crop=(0.25, 0, 1, 1))[:, 1:] == 255).all()
    assert (read(crop=(0, 0, 0.25, 1))[:, :19] == 0).all()


def test_gray_is_that_of_pillow(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    path = save(tmp_path / "a.png", pixels)
    gray = read_image(path, (16, 16), Preprocessing(color="gray"))
    expected = np.asarray(Image.open(path).convert("L"))
    assert (gray == expected[..., None]).all()


@pytest.mark.parametrize(
    "values",
    [
        {"resize": "squash"},
        {"color": "bgr"},
        {"crop": (0, 0, 1)},
        {"crop": (0.5, 0, 0.5, 1)},
        {"crop": (0, 0, 2, 1)},
        {"crop": (-0.1, 0, 1, 1)},
        {"crop": (0, 0, float("nan"), 1)},
        {"crop": "left"},
        {"resize": None},
        {"resize": ["letterbox"]},
    ],
)
def test_invalid_values_are_errors(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Preprocessing(**values)


def test_a_file_of_it(tmp_path: Path) -> None:
    policy = Preprocessing("letterbox", (0.1, 0.2, 0.9, 1), "gray")
    policy.save(tmp_path / "p.json")
    assert Preprocessing.read(tmp_path / "p.json") == policy
    assert Preprocessing.read(tmp_path / "gone.json") == Preprocessing()
    for text in ("", "[]", "3", '{"resize": 1}', '{"mode": "x"}', "[" * 99999):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(ValueError, match=r"p\.json is damaged"):
            Preprocessing.read(tmp_path / "p.json")


def test_an_image_too_long_to_be_cropped_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "long.png", np.zeros((60_000, 1, 3)))
    for read in (read_image, read_as_device):
        with pytest.raises(UserError, match=r"long\.png.*too long and narrow"):
            read(path, (224, 224), Preprocessing(resize="center_crop"))


def test_caches_are_keyed_by_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.full((8, 32, 3), 255))
    plain = open_cache("disk", (16, 16), tmp_path / "cache")
    boxed = open_cache("disk", (16, 16), tmp_path / "cache", None, Preprocessing("letterbox"))
    assert plain is not None
    assert boxed is not None
    for _ in range(2):
        assert plain(path).min() == 255
        assert boxed(path).min() == 0


# ---------------------------------------------------------------------------------------- the gate


def generator(photos: Path, cls: type[BatchGenerator] = BatchGenerator, **values: Any) -> Any:
    return cls(DataReader(photos), "train", batch_size=7, input_size=(16, 12), **values)


@pytest.mark.parametrize("memory", [0, 2**28])
def test_the_gate_scores_what_the_device_reads(
    photos: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(held_out, "MAX_MEMORY", memory)
    policy = Preprocessing("letterbox")
    batches = generator(photos, preprocessing=policy)
    device = as_device(batches)
    assert device is not None
    for _ in range(2):
        images = np.concatenate([images for images, _ in device])
        paths = [batches.data_reader.image_path(int(i)) for i in batches.epoch_order(0)]
        expected = np.stack([read_as_device(path, (16, 12), policy) for path in paths])
        np.testing.assert_array_equal(images, expected)


def test_arrays_and_readers_of_other_files_are_scored_as_they_are(photos: Path) -> None:
    assert as_device([(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1))]) is None
    assert as_device(generator(photos, read=lambda _: np.zeros((12, 16, 3), np.uint8))) is None


class Inverting(BatchGenerator):
    def preprocess(self, image: Any, annot: Any) -> Any:
        return 255 - image, annot


class InPlace(BatchGenerator):
    def preprocess(self, image: Any, annot: Any) -> Any:
        image[:2] = 0
        return image, annot


class Floats(BatchGenerator):
    def preprocess(self, image: Any, annot: Any) -> Any:
        return image.astype(np.float32), annot


class Elsewhere(BatchGenerator):
    def sample(self, i: int) -> Any:
        image, target = super().sample(i)
        return image[:, ::-1], target


class OnlyAnnotations(BatchGenerator):
    def preprocess(self, image: Any, annot: Any) -> Any:
        return image.copy(), 1 - annot


@pytest.mark.parametrize("cls", [Inverting, InPlace, Floats, Elsewhere])
def test_pixels_that_code_of_the_project_changes_are_refused(
    photos: Path, cls: type[BatchGenerator]
) -> None:
    with pytest.raises(UserError, match=r"changes pixels.*PREPROCESSING|Expected an image, uint8"):
        check_preprocess(generator(photos, cls))


def test_annotations_may_change(photos: Path) -> None:
    check_preprocess(generator(photos, OnlyAnnotations))
    check_preprocess(generator(photos, preprocessing=Preprocessing("letterbox", color="gray")))


# -------------------------------------------------------------------------------------- a project


def labels(text: str) -> dict[str, tuple[str, float]]:
    rows = csv.DictReader(io.StringIO(text))
    return {row["path"]: (row["label"], float(row["confidence"])) for row in rows}


def test_a_letterbox_travels_to_the_device(project: Project, photos: Path) -> None:
    policy = 'Preprocessing("letterbox", (0.2, 0, 1, 1), "rgb")'
    edit(project.path / "config.py", "PREPROCESSING = Preprocessing()", f"PREPROCESSING = {policy}")
    assert project.train("--batch_size", 4).code == 0
    # The run remembers it.
    edit(project.path / "config.py", f"PREPROCESSING = {policy}", "PREPROCESSING = Preprocessing()")
    done = project.deploy("--formats", "float32,int8")
    assert done.code in (0, 1), done.err  # one epoch: it may fail the gate
    folder = project.path / "deploy/test"
    expected = Preprocessing("letterbox", (0.2, 0, 1, 1))
    assert Preprocessing.read(folder / "device/preprocessing.json") == expected
    report = json.loads((folder / "report.json").read_text())
    assert report["image_reading"] == "device"
    path = save(photos / "wide.png", np.random.default_rng(1).integers(0, 256, (10, 60, 3)))
    model = open_bundle(folder / "device")
    np.testing.assert_array_equal(model.read(path), read_as_device(path, (16, 12), expected))
    assert np.abs(model.read(path).astype(int) - read_image(path, (16, 12), expected)).max() <= 2


def test_preprocess_of_a_project(trained: Project, photos: Path) -> None:
    path = photos / "apple" / "00.png"
    before = trained.call("predict.py", "--read_from", "progress/test", path)
    assert labels(before.out)[str(path)][0] == "apple"
    datagen = trained.path / "datagen.py"
    old = "        return image, annot\n"
    edit(datagen, old, "        return image[:, :, ::-1] // 2, annot\n")
    after = trained.call("predict.py", "--read_from", "progress/test", path)
    assert after.code == 0, after.err
    assert labels(after.out) != labels(before.out)
    done = trained.deploy()
    assert done.code == 2
    assert "preprocess() of BatchGenerator changes pixels" in done.err
    assert not (trained.path / "deploy").exists()
    edit(datagen, "image[:, :, ::-1] // 2, annot\n", "image, annot + 0\n")
    done = trained.call("predict.py", "--read_from", "progress/test", path)
    assert done.code == 2
    assert "annotation is None" in done.err
