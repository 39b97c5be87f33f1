"""The device bundle: its program in a process that can import only its runtime, NumPy, Pillow."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import kerakit.device
from digits import Exported, load_program, open_bundle
from kerakit import JobError, UserError
from kerakit.data.decode import read_image
from kerakit.deploy import ExportFolder, bundle
from kerakit.device.preprocessing import Preprocessing
from kerakit.tflite.convert import convert_float
from kerakit.tflite.runtime import load_tflite

program = load_program()

ONLY = """
import runpy, sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | set({allowed!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


FILES = {
    *("model.tflite", "model_edgetpu.tflite", "labels.txt", "task.json", "preprocessing.json"),
    *("golden.npz", "predict.py", "captions.py", "classification.py", "decoders.py", "photo.py"),
    *("preprocessing.py", "README.txt", "MODEL.md", "golden_input.bin", "golden_output.bin"),
}
"""Files of the bundle of a classifier."""


def run(
    folder: Path, *words: object, packages: tuple[str, ...] = ("ai_edge_litert", "numpy", "PIL")
) -> Any:
    """Run the bundle's program as on a device: without Kerakit, Keras, TensorFlow and OpenCV."""
    command = [
        sys.executable,
        "-I",
        "-c",
        ONLY.format(allowed=(*(Path(name).stem for name in FILES), *packages)),
        str(folder / "predict.py"),
        *map(str, words),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, timeout=60
    )


@pytest.fixture
def device(exported_digits: Exported, tmp_path: Path) -> Path:
    """A copy of an exported bundle."""
    return Path(shutil.copytree(exported_digits.folder / "device", tmp_path / "a device"))


def test_it_checks_and_times_itself_and_classifies(
    device: Path, exported_digits: Exported, tmp_path: Path
) -> None:
    images = exported_digits.held_out[:5]
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    done = run(device, "--check", "--time", 3, *paths)
    assert done.returncode == 0, done.stderr
    runtime, agreement, passed, timed, *predictions = done.stdout.splitlines()
    assert runtime.startswith("ai_edge_litert ")
    assert "16 of 16" in agreement
    assert agreement.endswith("maximum 0")
    assert passed.startswith("passed")
    assert "no difference" in passed
    assert timed.startswith("median ")
    expected = load_tflite(exported_digits.int8)(images)
    for path, prediction, scores in zip(paths, predictions, expected, strict=True):
        assert prediction.startswith(f"{path}: digit {scores.argmax()} {scores.max():.2f} (")


def test_labels_in_another_order_fail_the_check(device: Path) -> None:
    labels = device / "labels.txt"
    labels.write_text("".join(sorted(labels.read_text().splitlines(keepends=True), reverse=True)))
    done = run(device, "--check")
    assert done.returncode == 1
    assert "labels.txt differs" in done.stdout


def test_the_bundle_is_all_that_is_needed(exported_digits: Exported) -> None:
    folder = exported_digits.folder
    assert {p.name for p in (folder / "device").iterdir()} == FILES - {"model_edgetpu.tflite"}
    assert (folder / "device/model.tflite").read_bytes() == exported_digits.int8.read_bytes()
    with np.load(folder / "device/golden.npz", allow_pickle=False) as golden:
        chosen = golden["images"]
    # Held out, and from the first to the last of them.
    indices = [
        np.flatnonzero((exported_digits.held_out == image).all(axis=(1, 2, 3)))[0]
        for image in chosen
    ]
    assert indices[0] == 0
    assert indices[-1] == len(exported_digits.held_out) - 1
    assert len(set(indices)) == 16


def change_golden(folder: Path, **changes: Callable[[Any], Any]) -> None:
    with np.load(folder / "golden.npz") as golden:
        content = dict(golden)
    for name, change in changes.items():
        content[name] = change(content[name])
    np.savez(folder / "golden.npz", **content)


def test_a_changed_weight_is_found(device: Path) -> None:
    content = bytearray((device / "model.tflite").read_bytes())
    scores = open_bundle(device).run
    with np.load(device / "golden.npz") as golden:
        images, expected = golden["images"], golden["output_0"]
    assert (np.stack([scores(image)[0][0] for image in images]) == expected).all()
    # The weights are most of the file: somewhere in it there is one that matters.
    for place in range(len(content) // 3, len(content), 97):
        content[place] ^= 0x40
        (device / "model.tflite").write_bytes(content)
        changed = open_bundle(device)
        if (np.stack([changed.run(image)[0][0] for image in images]) != expected).any():
            break
    done = run(device, "--check")
    assert done.returncode == 1
    assert "not the exported model" in done.stdout
    # Its digest aside, the scores tell as well.
    change_golden(device, sha256=lambda _: changed.sha256)
    done = run(device, "--check")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "no difference" in done.stdout


@pytest.mark.parametrize(
    ("scores", "code", "said"),
    [
        (lambda x: x, 0, "passed (allowed: a mean of 4 steps"),
        (lambda x: np.where(x < 255, x + 1, x).astype(np.uint8), 0, "maximum 1"),
        (
            lambda x: np.full_like(x, 26),
            1,
            "FAILED",
        ),  # what a runtime of 2021 gives for Dense weights of many scales
        (lambda x: np.roll(x, 1, axis=1), 1, "0 of 16 images"),
    ],
)
def test_another_runtime_may_round_differently_but_not_more(
    device: Path, scores: Any, code: int, said: str
) -> None:
    change_golden(
        device, output_0=scores, runtime=lambda _: np.array("tflite_runtime 2.5.0 on armv7l")
    )
    done = run(device, "--check")
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def write_pickle(path: Path) -> None:
    np.savez(path, images=np.array([{}], dtype=object), scores=np.zeros(1), sha256="", runtime="")


def change_task(device: Path, **changes: object) -> None:
    task = json.loads((device / "task.json").read_text())
    (device / "task.json").write_text(json.dumps({**task, **changes}))


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (lambda _: None, [], "expected photos, --check or --time"),
        (lambda d: (d / "model.tflite").unlink(), ["--check"], "No such file"),
        (lambda d: (d / "model.tflite").write_bytes(b"no model"), ["--check"], "model.tflite"),
        (
            lambda d: (d / "model.tflite").write_bytes(b"edgetpu-custom-op"),
            ["--check"],
            "libedgetpu.so.1",
        ),
        (lambda d: (d / "labels.txt").unlink(), ["x.png"], "labels.txt"),
        (lambda d: (d / "labels.txt").write_text("a\n" + "\n" * 9), ["x.png"], "an empty line"),
        (
            lambda d: (d / "labels.txt").write_text("one\n"),
            ["x.png"],
            "1 lines",
        ),
        (lambda d: change_task(d, outputs=["x"]), ["x.png"], "does not fit the outputs of model"),
        (lambda d: change_task(d, task="detection"), ["x.png"], "No module named 'detection'"),
        (lambda d: (d / "golden.npz").unlink(), ["--check"], "golden.npz"),
        (lambda d: (d / "golden.npz").write_bytes(b"PK\x03\x04 cut"), ["--check"], "golden.npz"),
        (lambda d: write_pickle(d / "golden.npz"), ["--check"], "allow_pickle"),
        (
            lambda d: change_golden(d, images=lambda x: x[:, 1:]),
            ["--check"],
            "another model",
        ),
        (
            lambda d: change_golden(d, images=lambda x: x.astype(np.float32)),
            ["--check"],
            "another model",
        ),
        (
            lambda d: (d / "golden.npz").write_bytes((d / "model.tflite").read_bytes()),
            ["--check"],
            "golden.npz",
        ),
        (lambda d: change_golden(d, output_0=lambda x: x[1:]), ["--check"], "another model"),
        (
            lambda d: change_golden(d, images=lambda x: x[:0], output_0=lambda x: x[:0]),
            ["--check"],
            "another model",
        ),
        (lambda _: None, ["gone.png"], "gone.png"),
        (lambda d: (d / "x.png").write_bytes(b"no image"), ["x.png"], "x.png: not an image"),
        (lambda _: None, ["."], "no images in this folder"),
        (lambda _: None, ["--check", "--top", "0"], "--top is 0"),
        (lambda d: os.mkfifo(d / "x.jpg"), ["x.jpg"], "x.jpg: it is not a regular file"),
        (lambda d: (d / "x.png").symlink_to("/dev/zero"), ["."], "it is not a regular file"),
        (lambda d: replace_by_fifo(d / "golden.npz"), ["--check"], "it is not a regular file"),
        (lambda d: replace_by_fifo(d / "labels.txt"), ["--check"], "it is not a regular file"),
        (lambda d: replace_by_fifo(d / "model.tflite"), ["--check"], "it is not a regular file"),
        (lambda d: (d / "labels.txt").write_bytes(b"\xff\xfe"), ["--check"], "labels.txt"),
        (lambda d: (d / "preprocessing.json").write_text("{"), ["--check"], "damaged"),
        (lambda d: (d / "preprocessing.json").write_text('{"a": 1}'), ["--check"], "newer"),
        (
            lambda d: (d / "preprocessing.json").write_text(f'{{"crop": [0, 0, 1{"0" * 400}, 1]}}'),
            ["--check"],
            "crop: expected fractions",
        ),
    ],
)
def test_what_is_wrong_is_said(device: Path, spoil: Any, words: list[str], said: str) -> None:
    spoil(device)
    done = run(device, *words)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_runtime_it_says_what_to_install(device: Path) -> None:
    done = run(device, "--check", packages=("numpy", "PIL"))
    assert done.returncode == 2
    assert "python -m pip install ai-edge-litert" in done.stderr


def test_a_broken_photo_does_not_keep_the_others(device: Path) -> None:
    (device / "bad.jpg").write_bytes(b"\xff\xd8 bad")
    Image.new("L", (50, 40)).save(device / "good.png")
    done = run(device, "bad.jpg", "good.png")
    assert done.returncode == 2
    assert "bad.jpg" in done.stderr
    assert done.stdout.startswith("good.png: digit ")


def test_folders_and_top_labels(device: Path) -> None:
    names = ["a.png", "sub/b.PNG", "sub/.hidden.png", ".hidden/c.png", "sub/notes.txt", "z\x1b.png"]
    for name in names:
        path = device / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path, "PNG")
    done = run(device, "photos", "--top", 3)
    assert done.returncode == 0
    assert done.stderr == ""  # without the INFO lines of LiteRT
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "photos/a.png",
        "photos/sub/b.PNG",
        "photos/z\\x1b.png",
    ]
    assert all(line.count("digit ") == 3 for line in lines)


def test_a_name_that_is_not_utf_8(device: Path) -> None:
    Image.new("RGB", (9, 9)).save(device / "x.png")
    os.rename(os.fsencode(device / "x.png"), os.fsencode(device) + b"/\xff.png")
    command = [sys.executable, str(device / "predict.py"), os.fsdecode(b"\xff.png")]
    done = subprocess.run(command, capture_output=True, check=False, cwd=device)
    assert (done.returncode, done.stdout[:6]) == (0, b"\xff.png:"[:6]), done.stderr


def test_control_characters_of_labels_are_escaped(device: Path) -> None:
    labels = (device / "labels.txt").read_text().splitlines()
    (device / "labels.txt").write_text("".join(f"\x1b]0;{label}\x07\n" for label in labels))
    Image.new("RGB", (9, 9)).save(device / "x.png")
    done = run(device, "x.png")
    assert done.stdout.startswith(r"x.png: \x1b]0;digit"), done


def test_labels_with_a_byte_order_mark(device: Path) -> None:
    labels = (device / "labels.txt").read_bytes()
    (device / "labels.txt").write_bytes(b"\xef\xbb\xbf" + labels.replace(b"\n", b"\r\n"))
    assert run(device, "--check").returncode == 0


def test_another_preprocessing_fails_the_check(device: Path) -> None:
    Preprocessing(resize="letterbox").save(device / "preprocessing.json")
    done = run(device, "--check")
    assert (done.returncode, "preprocessing.json differs" in done.stdout) == (1, True)


def test_a_damaged_golden_file_is_explained(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_ = random.Random(0)
    golden = device / "golden.npz"
    model = open_bundle(device)
    monkeypatch.setattr(program, "HERE", device)
    change_golden(device)  # without compression, so that damage reaches NumPy
    intact = golden.read_bytes()
    for _ in range(80):
        content = bytearray(intact)
        for _ in range(random_.randrange(1, 5)):
            content[random_.choice([1, -1]) * random_.randrange(1, 900)] = random_.randrange(256)
        golden.write_bytes(content[: random_.choice([len(content), random_.randrange(99999)])])
        with contextlib.suppress(program.InputError):
            program.check(model, golden)


def test_it_is_python_3_7() -> None:
    """The grammar of 3.7. By hand it ran on 3.9 with tflite-runtime 2.7 and Pillow 8.4."""
    for path in Path(kerakit.device.__file__).parent.glob("[!_]*.py"):
        source = path.read_text()
        ast.parse(source, feature_version=(3, 7))
        assert "from __future__ import annotations" in source


# ------------------------------------------------------------------------------------------ pixels


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture that is smooth here and noisy there."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    smooth = np.asarray(
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.int16
    )
    noise = rng.integers(-60, 61, (height, width, 3)) * (np.arange(width) > width // 2)[:, None]
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, ending: str, orientation: int = 1) -> io.BytesIO:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, ending, exif=exif)
    return file


def test_tiny_photos_are_read_as_in_training(tmp_path: Path) -> None:
    """Several factors of the decoder have the size of a photo of a few pixels."""
    path = tmp_path / "photo.jpeg"
    sizes = range(1, 11)
    for size in itertools.product(sizes, sizes):
        path.write_bytes(encoded(picture(*size), "jpeg").getvalue())
        for wanted in itertools.product((1, 2, 3, 5, 8), (1, 2, 3, 5, 8)):
            here = read_image(path, wanted).astype(int)
            there = program.read_photo(path, wanted[1], wanted[0])
            assert np.abs(there - here).max() <= 1, (size, wanted)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from(["jpeg", "png"]),
    st.integers(1, 8),
)
def test_photos_are_read_as_in_training(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    wanted: tuple[int, int],
    ending: str,
    orientation: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"photo.{ending}"
    path.write_bytes(encoded(picture(*size), ending, orientation).getvalue())
    here = read_image(path, wanted).astype(int)
    there = program.read_photo(path, wanted[1], wanted[0])
    assert there.dtype == np.uint8
    assert there.shape == here.shape
    assert np.abs(there - here).max() <= 1
    upright = size if orientation < 5 else size[::-1]
    shrinks = [given / asked for given, asked in zip(upright, wanted, strict=True)]
    if min(shrinks) >= 1 and max(shrinks) < 4:
        np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize(
    ("ending", "modes"),
    [
        ("jpeg", "RGB L CMYK"),
        ("png", "RGB L RGBA LA P 1 I;16"),
        ("tiff", "RGB L CMYK RGBA LA P 1 I;16"),
        ("webp", "RGB RGBA"),
        ("bmp", "RGB L P 1"),
        ("gif", "RGB L RGBA P"),
    ],
)
def test_all_kinds_of_pixels_are_read_as_in_training(
    tmp_path: Path, ending: str, modes: str
) -> None:
    for mode in modes.split():
        if mode == "I;16":
            image = Image.fromarray(np.asarray(picture(90, 70))[..., 0].astype(np.uint16) * 257)
        else:
            image = picture(90, 70).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(picture(90, 70, seed=1).convert("L"))
        image.save(tmp_path / f"photo.{ending}")
        here = read_image(tmp_path / f"photo.{ending}", (40, 30)).astype(int)
        there = program.read_photo(tmp_path / f"photo.{ending}", 30, 40)
        limit = 2 if (ending, mode) == ("jpeg", "CMYK") else 0  # converted by other libraries
        assert np.abs(there - here).max() <= limit, mode


def test_pixels_of_no_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((9, 9), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(program.InputError, match="no defined range"):
        program.read_photo(tmp_path / "float.tiff", 8, 8)


# ------------------------------------------------------------------------------------------ export


def test_a_new_export_replaces_only_files_of_an_export(
    exported_digits: Exported, tmp_path: Path
) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(exported_digits.folder, folder)
    (folder / "device/model_edgetpu.tflite").write_bytes(b"of the old model")
    (folder / "device/holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="was not written by Kerakit"):
        ExportFolder(folder).check_new(overwrite=True)
    report = json.loads((folder / "report.json").read_text())
    report["files"].append("device/model_edgetpu.tflite")
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match="already holds"):
        ExportFolder(folder).check_new(overwrite=False)
    new = Path(shutil.copytree(exported_digits.folder, tmp_path / "new"))
    (new / "device/labels.txt").write_text("new\n")
    ExportFolder(folder).take_over(new)
    assert {p.name for p in (folder / "device").iterdir()} == {*FILES, "holiday.jpg"} - {
        "model_edgetpu.tflite"
    }
    assert (folder / "device/labels.txt").read_text() == "new\n"
    # One without int8 removes the bundle and keeps other files.
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text("{}")
    ExportFolder(folder).take_over(tmp_path / "first")
    assert [p.name for p in (folder / "device").iterdir()] == ["holiday.jpg"]
    (folder / "device/holiday.jpg").unlink()
    ExportFolder(folder).take_over(tmp_path / "second")
    assert [p.name for p in folder.iterdir()] == ["report.json"]


def test_a_compiled_file_in_the_export_folder_is_replaced_if_it_is_given(tmp_path: Path) -> None:
    """edgetpu_compiler writes its file and its log next to the model."""
    folder, compiled = tmp_path / "deploy", tmp_path / "deploy/model_edgetpu.tflite"
    folder.mkdir()
    compiled.write_bytes(b"compiled")
    (folder / "model_edgetpu.log").write_text("log")
    copy = Path(shutil.copy(compiled, tmp_path))
    (tmp_path / "other.tflite").write_bytes(b"another")
    for path in (None, tmp_path / "other.tflite", tmp_path / "gone.tflite"):
        with pytest.raises(UserError, match="was not written by Kerakit"):
            ExportFolder(folder, path).check_new(overwrite=True)
    for path in (compiled, copy):
        ExportFolder(folder, path).check_new(overwrite=True)
        with pytest.raises(UserError, match="--overwrite"):
            ExportFolder(folder, path).check_new(overwrite=False)


def test_a_file_named_like_the_bundle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        ExportFolder(tmp_path).check_new(overwrite=True)


def test_a_compiled_model_goes_along(exported_digits: Exported, tmp_path: Path) -> None:
    for name in ("model.tflite", "labels.txt", "task.json", "preprocessing.json"):
        shutil.copy(exported_digits.folder / name, tmp_path)
    (tmp_path / "model_edgetpu.tflite").write_bytes(b"edgetpu-custom-op")
    bundle.write_bundle(tmp_path, exported_digits.held_out[:4])
    assert {p.name for p in (tmp_path / "device").iterdir()} == FILES


def test_a_float32_model_is_refused(device: Path, exported_digits: Exported) -> None:
    (device / "float.tflite").write_bytes(convert_float(exported_digits.model))
    done = run(device, "--model", "float.tflite", "--time", 1)
    assert (done.returncode, "not all uint8" in done.stderr) == (2, True), done.stderr


def test_a_bundle_that_fails_its_self_check_is_not_exported(
    exported_digits: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.tflite", "labels.txt", "task.json"):
        shutil.copy(exported_digits.folder / name, tmp_path)
    scores = np.random.default_rng(0)

    def unsteady(images: Any) -> Any:
        return [scores.integers(0, 256, (len(images), 10), dtype=np.uint8)]

    monkeypatch.setattr(bundle, "stored_predict_fn", lambda *_: unsteady)
    with pytest.raises(JobError, match="self-check"):
        bundle.write_bundle(tmp_path, exported_digits.held_out[:4])
    assert not (tmp_path / "device").exists()
