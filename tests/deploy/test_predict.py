"""``kerakit predict``: predictions of a run and of an exported model."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits import TRAINED, Exported, digits
from kerakit import UserError
from kerakit.data.placement import Placement
from kerakit.deploy import keras_predict_fn, predict_images
from kerakit.deploy.bundle import read_as_device
from kerakit.deploy.predict import _check_values
from kerakit.device.preprocessing import Preprocessing
from kerakit.tasks import Classification, Detection, make_task
from projects import Result, run_command

Predict = Callable[..., Result]


@pytest.fixture
def predict(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Predict:
    """A function that runs ``kerakit predict`` in this process."""

    def run(*words: object, cwd: Path = tmp_path) -> Result:
        return run_command(monkeypatch, capfd, cwd, "predict", *words)

    return run


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out digits as image files, one folder per class. Read-only."""
    folder = tmp_path_factory.mktemp("images")
    pixels, targets = digits()
    for i in range(TRAINED, TRAINED + 60):
        path = folder / str(targets[i]) / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    return folder


@pytest.mark.parametrize("file", ["", "model.tflite"])
def test_predictions_of_an_exported_model(
    predict: Predict, exported_digits: Exported, images: Path, file: str
) -> None:
    done = predict(exported_digits.folder / file, images)
    assert done.code == 0, done.err
    found = rows(done.out)
    assert [row["path"] for row in found] == [str(path) for path in sorted(images.rglob("*.png"))]
    correct = [row["label"] == f"digit {Path(row['path']).parent.name}" for row in found]
    assert np.mean(correct) > 0.8
    assert all(0.1 < float(row["confidence"]) <= 1 for row in found)


def test_predictions_of_a_run(predict: Predict, trained_once: Path, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"bad")
    done = predict(trained_once / "progress/test", "--top", 2, "--as_json", photos)
    assert done.code == 2
    assert "bad.png" in done.err
    entries = json.loads(done.out)
    assert len(entries) == 60
    labels = [[record["label"] for record in entry["predictions"]] for entry in entries]
    assert all(set(each) == {"apple", "pear"} for each in labels)
    correct = [
        each[0] == Path(entry["path"]).parent.name
        for each, entry in zip(labels, entries, strict=True)
    ]
    assert np.mean(correct) > 0.9


def test_drawn_images_are_upright_and_have_different_names(
    predict: Predict, exported_digits: Exported, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by a quarter
    for folder, mode in (("a", "L"), ("b", "CMYK")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (480, 320)).save(tmp_path / folder / "photo.jpg", exif=exif)
    done = predict(exported_digits.folder, "a", "b/photo.jpg", "--draw", "new/drawn")
    assert done.code == 0, done.err
    drawn = sorted((tmp_path / "new/drawn").iterdir())
    assert len(drawn) == 2
    for path in drawn:
        with Image.open(path) as image:
            assert path.name.startswith("photo-")
            assert image.format == "PNG"
            assert image.width == 320
            assert image.height > 480  # and the caption
    (tmp_path / "file").touch()
    done = predict(exported_digits.folder, "a", "--draw", "file")
    assert done.code == 2
    assert "cannot create the folder file" in done.err


def test_boxes_are_drawn_in_the_rotated_photo(tmp_path: Path) -> None:
    """Stored 40 by 80 pixels with a mark, to be rotated to 80 by 40, letterboxed to 64 by 64."""
    upright = np.zeros((40, 80, 3), np.uint8)
    upright[20:30, 40:60] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored image is turned clockwise
    stored = Image.fromarray(np.rot90(upright))
    stored.save(tmp_path / "a.png", exif=exif)
    letterbox = Preprocessing(resize="letterbox")

    class Marks(Detection):
        def decode(self, outputs: Any) -> Any:
            """The mark as fractions of the input: the photo is in rows 16 to 48."""
            rows, columns = (np.flatnonzero(outputs[0].max(axis)) for axis in (1, 0))
            box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            return [np.array([[*(np.array(box) / 64), 0.9, 0]], np.float32)]

    found = list(
        predict_images(
            lambda images: images[..., 0] > 127,
            Marks(["mark"]),
            lambda path: read_as_device(path, (64, 64), letterbox),
            [tmp_path / "a.png"],
            placement=lambda path: Placement(path, letterbox, (64, 64)),
            draw=tmp_path / "drawn",
        )
    )
    ((_, (record,)),) = found  # type: ignore[misc]
    sides = [record[name] for name in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(sides, [40, 20, 60, 30], atol=1.5)
    with Image.open(next((tmp_path / "drawn").iterdir())) as image:
        red = (np.asarray(image)[:, 40:120] == (230, 25, 75)).all(-1)  # the caption is wider
    assert red[28:32, 42:58].any(axis=0).all()  # the lower side
    assert not red[32:].any()


def test_json_top_and_odd_names(
    predict: Predict, exported_digits: Exported, tmp_path: Path
) -> None:
    name = '-it\'s "a" digit.png'
    Image.fromarray(exported_digits.held_out[0]).save(tmp_path / name)
    done = predict(exported_digits.folder, "--top", 10, "--as_json", "--", name)
    assert done.code == 0, done.err
    ((entry),) = json.loads(done.out)
    assert entry["path"] == name
    assert len({record["label"] for record in entry["predictions"]}) == 10
    confidences = [record["confidence"] for record in entry["predictions"]]
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1, abs=0.02)


def test_a_broken_image_is_named_and_the_others_are_predicted(
    predict: Predict, exported_digits: Exported, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    Image.fromarray(exported_digits.held_out[0]).save(tmp_path / "good.png")
    done = predict(exported_digits.folder, tmp_path)
    assert done.code == 2
    assert [Path(row["path"]).name for row in rows(done.out)] == ["good.png"]
    assert "bad.png" in done.err
    assert "1 of 2 images" in done.err


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (["export", "gone.png"], "gone.png"),
        (["export", "empty"], "no images"),
        (["export"], "missing: images"),
        (["empty", "x.png"], "TensorFlow Lite"),
        (["gone", "x.png"], "gone does not exist. Expected a run folder"),
        (["alone.tflite", "x.png"], "labels.txt"),
        (["broken/model.tflite", "x.png"], "not TFL3"),
        (["fewer/model.tflite", "x.png"], "1 lines"),
        (["export", "x.png", "--top", "0"], "--top"),
        (["float", "x.png"], "float has no model.tflite, the int8 model. Name the file, such as"),
        (["bytes/model.tflite", "x.png"], "labels.txt is not UTF-8 text"),
        (["blank/model.tflite", "x.png"], "labels.txt: line 2 is empty"),
        (["pipe/model.tflite", "x.png"], "there is no pipe/labels.txt"),
        (["policy/model.tflite", "x.png"], "preprocessing.json is damaged"),
        (["zero.tflite", "x.png"], "is not a TensorFlow Lite model"),
        (["sparse.tflite", "x.png"], "2 GiB"),
    ],
)
def test_bad_input_is_explained(
    predict: Predict, exported_digits: Exported, tmp_path: Path, words: list[str], noun: str
) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    shutil.copy(exported_digits.int8, tmp_path / "alone.tflite")
    for name in ("export", "broken", "fewer", "bytes", "blank", "pipe", "policy", "float"):
        (tmp_path / name).mkdir()
        for file in ("model.tflite", "labels.txt"):
            shutil.copy(exported_digits.folder / file, tmp_path / name)
    (tmp_path / "broken/model.tflite").write_bytes(b"no model")
    (tmp_path / "fewer/labels.txt").write_text("apple\n")
    (tmp_path / "bytes/labels.txt").write_bytes(b"\xff\n" * 10)
    (tmp_path / "blank/labels.txt").write_text("apple\n \n")
    (tmp_path / "pipe/labels.txt").unlink()
    os.mkfifo(tmp_path / "pipe/labels.txt")
    (tmp_path / "policy/preprocessing.json").write_text('{"resize": "zoom"}')
    (tmp_path / "float/model.tflite").rename(tmp_path / "float/model_float32.tflite")
    (tmp_path / "zero.tflite").symlink_to("/dev/zero")
    with (tmp_path / "sparse.tflite").open("wb") as sparse:
        sparse.truncate(2**40)
    done = predict(*words)
    assert done.code == 2
    assert noun in done.err
    assert "Traceback" not in done.err


def test_names_that_are_not_utf_8_and_odd_files(exported_digits: Exported, tmp_path: Path) -> None:
    Image.fromarray(exported_digits.held_out[0]).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/\xff.png")
    Image.fromarray(exported_digits.held_out[1]).save(tmp_path / "z.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    command = [sys.executable, "-m", "kerakit", "predict", str(exported_digits.folder), "."]
    flag_lists: list[list[str]] = [[], ["--as_json"]]
    for flags in flag_lists:
        done = subprocess.run(
            [*command, *flags], capture_output=True, check=False, cwd=tmp_path, timeout=60
        )
        assert done.returncode == 2
        assert b"2 of 4 images were not predicted" in done.stderr
        assert b"Traceback" not in done.stderr
        if flags:
            found = [os.fsencode(entry["path"]) for entry in json.loads(done.stdout)]
        else:
            found = [line.partition(b",")[0] for line in done.stdout.splitlines()[1:]]
        assert sorted(found) == [b"z.png", b"\xff.png"]


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["a"]},
        {"overlap": None},
        {"overlap": 10**400},
        {"strides": None},
        {"strides": [0, 16, 32]},
    ],
    ids=lambda one: str(one)[:30],
)
def test_values_that_do_not_decode_the_outputs(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Of another model, or damaged: an error before the first photo."""
    spec = Detection(["a", "b"]).spec()
    sizes = {"box": 4, "class": 2, "object": 1}
    names = tuple(f"{name}_{stride}" for name in sizes for stride in spec["strides"])
    shapes = tuple((1, 4, 4, size) for size in sizes.values() for _ in spec["strides"])
    file = tmp_path / "model.tflite"

    def check(values: dict[str, Any]) -> None:
        (tmp_path / "task.json").write_text(json.dumps(values))
        _check_values(file, make_task(values), names, shapes)

    check(spec)
    with pytest.raises(UserError, match=r"does not fit the outputs of .*model\.tflite"):
        check({**spec, **changes})


def test_labels_with_a_byte_order_mark(
    predict: Predict, exported_digits: Exported, tmp_path: Path, images: Path
) -> None:
    shutil.copy(exported_digits.int8, tmp_path)
    labels = (exported_digits.folder / "labels.txt").read_text()
    (tmp_path / "labels.txt").write_text(labels, encoding="utf-8-sig")
    done = predict(tmp_path / "model.tflite", images / "0")
    assert done.code == 0
    assert {row["label"][:6] for row in rows(done.out)} == {"digit "}


def test_outputs_that_are_not_finite_are_errors(tmp_path: Path) -> None:
    outputs = iter(([np.nan, 0.5], [0.2, 0.8], [0, np.inf]))
    found = list(
        predict_images(
            lambda _: np.array([next(outputs)], np.float32),
            Classification(["cat", "dog"]),
            lambda _: np.zeros((4, 4, 3), np.uint8),
            [Path("a"), Path("b"), Path("c")],
        )
    )
    assert [isinstance(one, UserError) for one in found] == [True, False, True]
    assert "no prediction for a: the model outputs NaN" in str(found[0])


def test_an_output_that_is_not_finite_does_not_end_the_work_on_the_others() -> None:
    import keras

    image = keras.Input((1, 1, 3))
    brightness = keras.layers.GlobalMaxPooling2D()(image)[:, :2]
    model = keras.Model(image, keras.ops.log(brightness))  # of black: infinite
    found = predict_images(
        keras_predict_fn(model),
        Classification(["cat", "dog"]),
        lambda path: np.full((1, 1, 3), int(path.name), np.uint8),
        [Path("9"), Path("0"), Path("7")],
    )
    assert [isinstance(one, UserError) for one in found] == [False, True, False]


def test_a_run_without_its_project_is_explained(
    predict: Predict, trained_once: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_once / "progress/test", tmp_path / "run")
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    # A script that merely has the name is not run.
    (tmp_path / "predict.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    done = predict("run", "x.png")
    assert done.code == 2
    assert "project" in done.err
    assert not (tmp_path / "ran").exists()


def test_a_closed_pipe_is_not_an_error(exported_digits: Exported, images: Path) -> None:
    command = [sys.executable, "-m", "kerakit", "predict", exported_digits.folder, images]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert "Traceback" not in err
