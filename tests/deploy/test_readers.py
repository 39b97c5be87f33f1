"""Exported files in MediaPipe Tasks and OpenCV's dnn module, with the real packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from keras import layers

from digits import NAMES, TRAINED, Exported, calibration, digits, train
from kerakit.deploy import ExportFolder, export_model
from kerakit.tasks import Classification, MultiTask, Segmentation, Task
from kerakit.tflite.runtime import load_tflite, start_interpreter, stored_predict_fn

pytestmark = pytest.mark.slow

TFLITE = ("float32", "float16", "dynamic_range", "int8", "int16x8")
FILES = {name: f"model_{name}.tflite" for name in TFLITE} | {"int8": "model.tflite"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    images, targets = digits()
    held_out = [(images[TRAINED:], targets[TRAINED:])]
    return export(
        train(),
        Classification(NAMES),
        tmp_path_factory.mktemp("a"),
        images[:200],
        held_out,
        (*TFLITE, "onnx"),
    )


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network of random weights, whose masks vary."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(x)
    model = keras.Model(image, layers.Conv2D(3, 3, strides=2, padding="same")(x))
    masks = np.random.default_rng(1).integers(0, 3, (8, 32, 32)).astype(np.uint8)
    task, folder = Segmentation(["sky", "road", "car"]), tmp_path_factory.mktemp("b")
    return export(model, task, folder, blobs(8), [(blobs(8), masks)], TFLITE)


def export(
    model: Any, task: Task, folder: Path, images: Any, held_out: Any, formats: Sequence[str]
) -> Exported:
    results = export_model(
        *(model, task, ExportFolder(folder), calibration(images), held_out, formats),
        max_drop=1,
        log=lambda _: None,
    )
    assert {result.status for result in results} == {"exported"}, results
    return Exported(model, folder)


def blobs(count: int) -> np.ndarray[Any, Any]:
    """Return images of 32x32 pixels with colored areas of 8x8."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return colors.repeat(8, axis=1).repeat(8, axis=2)


def as_image(pixels: np.ndarray[Any, Any]) -> Any:
    mediapipe = pytest.importorskip("mediapipe")
    data = np.ascontiguousarray(pixels)
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=data)


def options_of(kind: str, path: Path, **options: Any) -> Any:
    """Return a task of MediaPipe that runs a file."""
    python = pytest.importorskip("mediapipe.tasks.python")
    base = python.BaseOptions(model_asset_path=str(path))
    of_kind = getattr(python.vision, f"{kind}Options")(base_options=base, **options)
    return getattr(python.vision, kind).create_from_options(of_kind)


@pytest.mark.parametrize("name", TFLITE)
def test_image_classifier_has_the_names_and_scores(classifier: Exported, name: str) -> None:
    path = classifier.folder / FILES[name]
    images = classifier.held_out[:50]
    expected = load_tflite(path)(images)
    with options_of("ImageClassifier", path) as task:
        for pixels, scores in zip(images, expected, strict=True):
            (head,) = task.classify(as_image(pixels)).classifications
            assert head.head_name == "scores"
            found = {one.category_name: one.score for one in head.categories}
            assert list(found) == sorted(found, key=lambda label: -found[label])
            # A step of the uint8 scores is 1/256.
            np.testing.assert_allclose([found[one] for one in NAMES], scores, atol=1e-3)


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_image_classifier_has_a_head_per_output(tmp_path: Path, name: str) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(layers.Rescaling(1 / 255)(image)))
    outputs = {
        "animal": layers.Dense(2, activation="softmax")(x),
        "sky": layers.Dense(3, activation="softmax")(x),
    }
    task = MultiTask(
        {"animal": Classification(["cat", "dog"]), "sky": Classification(["red", "blue", "gray"])}
    )
    targets = {one: np.arange(8) % 2 for one in outputs}
    folder = tmp_path / "export"
    made = export(
        *(keras.Model(image, outputs), task, folder, blobs(8), [(blobs(8), targets)]),
        ["float32", "int8"],
    )
    path = made.folder / FILES[name]
    expected = load_tflite(path, ("animal", "sky"))(blobs(1))
    with options_of("ImageClassifier", path) as classifier:
        heads = classifier.classify(as_image(blobs(1)[0])).classifications
    assert [head.head_name for head in heads] == ["animal", "sky"]
    for head in heads:
        names = list(task.class_names[head.head_name])
        found = {one.category_name: one.score for one in head.categories}
        np.testing.assert_allclose(
            [found[one] for one in names], expected[head.head_name][0], atol=1e-3
        )


@pytest.mark.parametrize("name", TFLITE)
def test_image_segmenter_has_the_names_and_masks(segmenter: Exported, name: str) -> None:
    path = segmenter.folder / FILES[name]
    images = blobs(8)
    logits = load_tflite(path)(images)
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert len(np.unique(expected.argmax(-1))) == 3
    found = []
    options = {"output_confidence_masks": True, "output_category_mask": True}
    with options_of("ImageSegmenter", path, **options) as task:
        assert task.labels == ["sky", "road", "car"]
        for pixels, scores in zip(images, expected, strict=True):
            result = task.segment(as_image(pixels))
            masks = [one.numpy_view()[..., 0] for one in result.confidence_masks]
            # Scores are resized after softmax, by OpenCV; Kerakit resizes them before.
            resized = cv2.resize(scores, (32, 32), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_allclose(np.stack(masks, axis=-1), resized, atol=2e-6)
            found.append(resized.argmax(-1))
            # Categories are resized in another way, which differs along the many borders here.
            category = result.category_mask.numpy_view().reshape(32, 32)
            assert np.mean(category == found[-1]) > 0.8
    task_of = Segmentation(["sky", "road", "car"])
    assert np.mean(task_of.decode(logits).masks((32, 32)) == found) > 0.9


def run_opencv(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the output of OpenCV's dnn module, with the channels last."""
    is_onnx = path.suffix == ".onnx"
    network = cv2.dnn.readNetFromONNX(path) if is_onnx else cv2.dnn.readNetFromTFLite(path)
    results = []
    for pixels in images:
        blob = pixels[None].astype(np.float32)
        network.setInput(blob if is_onnx else np.ascontiguousarray(np.moveaxis(blob, 3, 1)))
        results.append(network.forward()[0])
    outputs = np.stack(results)
    return outputs if is_onnx or outputs.ndim == 2 else np.moveaxis(outputs, 1, 3)


@pytest.mark.parametrize("name", ["model_float32.tflite", "model_float16.tflite", "model.onnx"])
def test_opencv_computes_the_scores_of_float_files(classifier: Exported, name: str) -> None:
    images = classifier.held_out[:20]
    expected = classifier.model.predict(images, verbose=0)
    tolerance = 5e-3 if "float16" in name else 1e-5
    np.testing.assert_allclose(
        run_opencv(classifier.folder / name, images), expected, atol=tolerance
    )


def test_opencv_computes_the_scores_of_a_segmenter(segmenter: Exported) -> None:
    expected = segmenter.model.predict(blobs(8), verbose=0)
    found = run_opencv(segmenter.folder / "model_float32.tflite", blobs(8))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_opencv_takes_raw_pixels_in_int8_and_cuts_its_outputs(segmenter: Exported) -> None:
    """OpenCV 5.0 takes each QUANTIZE for one from uint8: outputs below the middle are lost."""
    path = segmenter.folder / "model.tflite"
    stored = stored_predict_fn(start_interpreter(path.read_bytes(), "int8"))(blobs(8))[0]
    expected = np.maximum(stored.astype(int) - 256, -128)
    assert np.abs(run_opencv(path, blobs(8)) - expected).mean() < 3
