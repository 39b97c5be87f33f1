"""The task of segmentation: masks from files and polygons, loss, metrics, decoding, int8."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from PIL import Image

from kerakit import UserError
from kerakit.data import MaskReader, Preprocessing
from kerakit.data.placement import Placement
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.quantization.int8 import quantize_int8
from kerakit.deploy.quantization.ranges import collect_ranges
from kerakit.device.decoders import task_files
from kerakit.device.segmentation import IGNORED, Decoder
from kerakit.tasks import Classification, Keypoints, MultiTask, Segmentation, Task
from kerakit.tasks.masks import read_mask
from kerakit.tasks.segmentation_losses import MeanIoU, segmentation_loss
from kerakit.tflite.convert import convert_float
from kerakit.tflite.runtime import load_tflite
from kerakit.training import split_at

NAMES = ["sky", "road", "car"]
TASK = Segmentation(NAMES)


def floats(values: Any) -> Any:
    return np.array(values, np.float32)


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def one_hot(masks: Any, known: int = 0) -> Any:
    """Return scores of cells of one pixel for which decoding returns ``masks``."""
    return np.eye(3, dtype=np.float32)[np.where(masks == IGNORED, known, masks)]


# ------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("mode", ["P", "L", "1", "LA", "I;16"])
def test_mask_files_of_all_kinds(mode: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.frombytes("P", (3, 2), values.tobytes())
        image.putpalette([255, 0, 0, 0, 255, 0])
    elif mode == "1":
        image = Image.fromarray(values * 255).convert("1")
    elif mode == "LA":
        image = Image.merge("LA", [image, image])
    elif mode != "L":
        image = Image.fromarray(values.astype(np.uint16))
    image.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        assert saved.mode == mode
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 2), values)


def test_a_mask_in_colors(tmp_path: Path) -> None:
    colors = [(128, 64, 0), (0, 0, 0), (1, 2, 3)]
    expected = np.array([[2, 0, 1], [1, 2, 0]], np.uint8)
    Image.fromarray(np.array(colors, np.uint8)[expected]).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 3, (), colors), expected)
    # Black has no class unless it is one of the colors.
    colors[1] = (9, 9, 9)
    found = read_mask(tmp_path / "mask.png", 3, (), colors)
    np.testing.assert_array_equal(found, np.where(expected == 1, IGNORED, expected))


def test_gray_masks_in_colors_and_other_values(tmp_path: Path) -> None:
    values = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(np.repeat(values[..., None], 3, axis=2)).save(tmp_path / "mask.png")
    table = np.full(256, IGNORED, np.uint8)
    table[[0, 255]] = 0, 1
    found = read_mask(tmp_path / "mask.png", 2, table=table)
    np.testing.assert_array_equal(found, values == 255)
    # Without a table, 255 marks pixels without a class.
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 2), values)


def test_colors_and_ignored_values_are_those_of_the_reader(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    colors = [(0, 0, 0), (200, 0, 0)]
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    for i in range(4):
        Image.new("RGB", (2, 2)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(np.array(colors, np.uint8)[mask]).save(tmp_path / "masks" / f"{i}.png")
    reader = MaskReader(tmp_path, class_names=["sky", "road"], colors=colors, ignore=[7])
    task = Segmentation(reader.class_names).adapt(reader)
    assert (task.colors, task.ignore) == ([[0, 0, 0], [200, 0, 0]], [7])
    # As recorded in a run.
    restored = Segmentation(reader.class_names).restore(json.loads(json.dumps(task.spec())))
    placement = Placement(reader.image_path(0), Preprocessing(), (2, 2))
    np.testing.assert_array_equal(restored.resize(reader.target(0), placement)["mask"], mask)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.full((2, 2), 7, np.uint8), {}, "4 pixels of value 7; classes are 0 to 2"),
        (np.full((2, 2, 3), [7, 7, 8], np.uint8), {}, "in colors; expected class indices"),
        (np.full((2, 2, 3), 7, np.uint8), {"colors": [(1, 1, 1)] * 3}, r"such as \(7, 7, 7\)"),
        (None, {}, "cannot read mask"),
        (b"\x89PNG\r\n\x1a\n", {}, "cannot read mask"),
    ],
)
def test_a_bad_mask_is_an_error(
    pixels: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mask.png"
    if isinstance(pixels, bytes):
        path.write_bytes(pixels)
    elif pixels is not None:
        Image.fromarray(pixels).save(path)
    with pytest.raises(UserError, match=message):
        read_mask(path, 3, **options)


def place(size: tuple[int, int], resize: str, input_size: tuple[int, int], path: Path) -> Placement:
    Image.new("RGB", size).save(path)
    return Placement(path, Preprocessing(resize=resize), input_size)


def test_a_polygon_with_a_hole(tmp_path: Path) -> None:
    placement = place((100, 50), "stretch", (40, 40), tmp_path / "image.png")
    square = floats([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    hole = (square - 0.5) / 2 + 0.5
    annotation = {"polygons": [square, hole], "classes": [1, 1], "objects": [0, 0]}
    task = Segmentation(["background", "road"])
    mask = task.encode(task.resize(annotation, placement), (40, 40))
    expected = np.zeros((40, 40), np.uint8)
    expected[10:30, 10:30] = 1
    expected[15:25, 15:25] = 0
    # A polygon covers the pixels on its edge, too.
    assert (mask != expected).sum() <= 4 * (20 + 10)
    assert mask[20, 12] == 1
    assert mask[20, 20] == mask[5, 5] == 0


def test_nothing_is_known_outside_of_a_letterboxed_image(tmp_path: Path) -> None:
    placement = place((100, 50), "letterbox", (40, 40), tmp_path / "image.png")
    everything = floats([[-1, -1], [2, -1], [2, 2], [-1, 2]])
    task = Segmentation(["background", "road"])
    annotation = {"polygons": [everything], "classes": [1]}
    mask = task.resize(annotation, placement)["mask"]
    assert (mask[10:30] == 1).all()
    assert (mask[:10] == IGNORED).all()
    assert (mask[30:] == IGNORED).all()

    Image.fromarray(np.ones((50, 100), np.uint8)).save(tmp_path / "mask.png")
    of_file = task.resize({"mask": tmp_path / "mask.png"}, placement)["mask"]
    np.testing.assert_array_equal(of_file, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); expected \(6, 8\)"),
        (np.full((6, 8), 3, np.uint8), "value 3; expected class indices below 3"),
    ],
)
def test_augmentation_that_breaks_masks_is_an_error(mask: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TASK.encode({"mask": mask}, (8, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["one"]}, "2 to 255 classes, got 1"),
        ({"class_weights": [1]}, "class_weights has 1 entries; there are 3"),
        ({"colors": [(0, 0, 0)]}, "colors has 1 entries; there are 3"),
        ({"stride": 5}, "stride is 5"),
    ],
)
def test_bad_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Segmentation(**{"class_names": NAMES, **options})


# ---------------------------------------------------------------------------------------- metrics


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_scores_are_those_of_scikit_learn_and_keras(seed: int, ignored: float) -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, (2, 4, 8)).astype(np.uint8)
    targets[rng.random(targets.shape) < ignored] = IGNORED
    targets[0, 0, 0] = 1
    scores = rng.normal(size=(2, 4, 8, 3)).astype(np.float32)
    task = Segmentation(NAMES)
    predictions = task.decode(scores)
    known = targets != IGNORED
    true, predicted = targets[known], scores.argmax(-1)[known]

    found = task.score(predictions, targets)
    assert found["mean_iou"] == pytest.approx(jaccard_score(true, predicted, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true, predicted))
    metric = MeanIoU(3)
    metric.update_state(targets, scores)
    assert found["mean_iou"] == pytest.approx(float(metric.result()), abs=1e-5)

    details = task.details(predictions, targets)
    pairs = list(zip(NAMES, details["classes"]["iou"], strict=True))
    lowest = min((iou, name) for name, iou in pairs if iou is not None)
    assert found["worst_class_iou"] == lowest[0]
    assert sum(cell[2] for cell in details["confusion_matrix"]) == known.sum()


def test_mistakes_are_sorted_by_iou() -> None:
    targets = np.zeros((3, 4, 4), np.uint8)
    predicted = targets.copy()
    predicted[0, 0, 0] = 1
    predicted[2] = 1
    predictions = TASK.decode(one_hot(predicted))
    assert TASK.mistakes(predictions, targets).tolist() == [2, 0]
    assert TASK.agreement(predictions, predictions) == 1


def test_reports_and_drawings() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, (2, 16, 24)).astype(np.uint8)
    predictions = TASK.decode(rng.normal(size=(2, 4, 6, 3)))
    sections = TASK.report({"Keras": predictions, "int8": predictions}, targets)
    headings = [section.heading for section in sections]
    assert headings == ["Metrics per class", "Confusion matrix", "Most confused pairs"]
    assert list(TASK.plot(predictions, targets)) == ["confusion_matrix"]
    image = np.zeros((16, 24, 3), np.uint8)
    assert TASK.overlay(image, predictions[0], targets[0]).shape == (16, 24 + 4 + 24, 3)
    assert TASK.overlay(image).shape == image.shape
    assert TASK.draw(image, predictions[0], targets[0]).height > 16 + 14
    assert TASK.format_annotation(np.array([[0, 0], [1, 255]])) == "sky 67%, road 33%"


# ------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_the_loss_is_that_of_the_formulas(weights: Any) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 3, 5, 3)).astype(np.float32)
    targets = rng.integers(0, 3, (4, 12, 20)).astype(np.uint8)
    targets[rng.random(targets.shape) < 0.2] = IGNORED
    targets[3] = IGNORED
    resized = np.stack(
        [cv2.resize(one, (20, 12), interpolation=cv2.INTER_LINEAR) for one in scores]
    )
    exponents = np.exp(resized)
    probabilities = exponents / exponents.sum(-1, keepdims=True)
    known = targets != IGNORED
    labels = one_hot(targets) * known[..., None]
    factors = np.asarray(weights or [1, 1, 1])
    entropy = [
        -(labels[i] * factors * np.log(probabilities[i])).sum() / (labels[i] * factors).sum()
        if known[i].any()
        else 0
        for i in range(4)
    ]
    probabilities = probabilities * known[..., None]
    overlap, axes = (probabilities * labels).sum((0, 1, 2)), (0, 1, 2)
    dice = 1 - 2 * overlap / (probabilities.sum(axes) + labels.sum(axes))
    found = np.asarray(segmentation_loss(weights)(targets, scores))
    without = np.asarray(segmentation_loss(weights, dice=0)(targets, scores))
    np.testing.assert_allclose(without, entropy, rtol=1e-4)
    # Each image has its part of the coefficients of the batch.
    assert (found - without).mean() == pytest.approx(dice.mean(), rel=1e-4)
    assert found[3] == 0


# --------------------------------------------------------------------------------------- decoding


@given(SIZES, SIZES, st.integers(0, 2**32 - 1))
def test_masks_are_those_of_opencv_and_keras(cells: Any, size: Any, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(*cells, 3)).astype(np.float32)
    decoder = Decoder({"classes": NAMES})
    mask = decoder.mask(decoder.decode(scores), size)
    opencv = cv2.resize(scores, size, interpolation=cv2.INTER_LINEAR).reshape(*size[::-1], 3)
    # The loss and the metric of training resize by Keras.
    resized = keras.ops.image.resize(scores, size[::-1], interpolation="bilinear")
    for expected in (opencv, keras.ops.convert_to_numpy(resized)):
        ordered = np.sort(expected, axis=-1)
        clear = ordered[..., 2] - ordered[..., 1] > 1e-3  # ties depend on rounding
        np.testing.assert_array_equal(mask[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
def test_a_mask_returns_to_its_image(resize: str, tmp_path: Path) -> None:
    placement = place((100, 50), resize, (48, 48), tmp_path / "image.png")
    original = np.zeros((50, 100), np.uint8)
    original[:, 50:] = 1
    original[25:] += 1
    of_input = placement.mask(original)
    prediction = TASK.decode(one_hot(of_input)[None])[0]
    located = TASK.locate(prediction, placement)
    mask = TASK._decoder.mask(located, (100, 50))
    seen = mask != IGNORED
    assert seen.all() or resize == "center_crop"
    assert seen[:, 28:72].all()
    assert (mask == original)[seen].mean() > 0.93
    records = TASK.describe(located, 3, (100, 50))
    assert [row["label"] for row in records[1:]] in (["sky", "car"], ["car", "sky"])
    assert records[0]["label"] == "road"
    assert sum(row["fraction"] for row in records) == pytest.approx(1)


# ------------------------------------------------------------------------------- a trained model


def draw_scenes(count: int, seed: int) -> tuple[Any, Any]:
    """Return images (n, 48, 64, 3) of a road below the sky with cars, and their masks."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 20, (count, 48, 64, 3))
    masks = np.zeros((count, 48, 64), np.uint8)
    colors = np.array([[90, 140, 220], [110, 100, 100], [200, 40, 60]])
    for mask in masks:
        mask[rng.integers(16, 28) :] = 1
        x, y = rng.integers(0, 48), rng.integers(26, 38)
        mask[y : y + 10, x : x + 16] = 2
    return np.clip(images + colors[masks], 0, 255).astype(np.uint8), masks


def build(task: Task) -> keras.Model:
    image = keras.Input((48, 64, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (8, 16, 24, 32):
        x = layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(image, task.head(x))


def test_a_model_is_trained_and_exported_to_int8(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    task = Segmentation(NAMES, channels=32)
    model = build(task)
    task.check_model(model)
    with pytest.raises(UserError, match="3 classes, the dataset 2"):
        Segmentation(["sky", "road"]).check_model(model)
    args = SimpleNamespace(loss=("auto",), loss_weights=None, label_smoothing=0)
    model.compile(keras.optimizers.Adam(3e-3), **task.compile_options(model, args))
    images, masks = draw_scenes(48, 0)
    # A weight per image, too.
    history = model.fit(images, masks, 8, epochs=8, verbose=0, sample_weight=np.ones(48))
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]

    held_out, targets = draw_scenes(16, 1)
    predictions = task.decode(model.predict(held_out, verbose=0))
    scores = task.score(predictions, targets)
    assert scores["mean_iou"] > 0.8
    logged = model.evaluate(held_out, targets, verbose=0, return_dict=True)
    assert logged["mean_iou"] == pytest.approx(scores["mean_iou"], abs=0.01)

    content = convert_float(model)
    quantized = quantize_int8(content, collect_ranges(content, images[:32]))
    assert forecast(quantized).on_tpu == len(forecast(quantized).operators)
    (tmp_path / "model.tflite").write_bytes(quantized)
    of_int8 = task.decode(load_tflite(tmp_path / "model.tflite")(held_out))
    assert task.agreement(of_int8, predictions) > 0.98
    assert task.score(of_int8, targets)["mean_iou"] > scores["mean_iou"] - 0.01


def test_training_splits_the_model_below_its_decoder() -> None:
    model = build(TASK)
    backbone, head = split_at(model)
    images = draw_scenes(2, 0)[0].astype(np.float32)
    levels = backbone.predict(images, verbose=0)
    assert [level.shape[1:3] for level in levels] == [(12, 16), (6, 8), (3, 4)]
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(head.predict(levels, verbose=0), expected, atol=1e-4)


def test_masks_points_and_classes_of_one_model() -> None:
    tasks = {
        "scene": Classification(["day", "night"]),
        "mask": Segmentation(NAMES, channels=16),
        "points": Keypoints(["left", "right"], channels=16),
    }
    task = MultiTask(tasks)
    model = build(task)
    task.check_model(model)
    inference = task.inference_model(model)
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in inference.output.items()}
    assert shapes == {
        "scene": (2,),
        "mask": (12, 16, 3),
        "points.heatmaps": (12, 16, 2),
        "points.offsets": (12, 16, 4),
    }
    predictions = task.decode(inference.predict(draw_scenes(2, 0)[0], verbose=0))
    targets = {
        "scene": np.array([0, 1]),
        "mask": draw_scenes(2, 0)[1],
        "points": np.full((2, 2, 3), 2, np.float32),
    }
    assert set(tasks) <= {name.split("_")[0] for name in task.score(predictions, targets)}
    assert split_at(model)[1].output.keys() == tasks.keys()
    files = ["classification.py", "colors.py", "keypoints.py", "segmentation.py"]
    assert task_files(task.spec()) == files


def test_balanced_class_weights_follow_the_masks(tmp_path: Path) -> None:
    class Masks:
        """Three images, of which the last is not for training."""

        def indices(self, mode: str) -> Any:  # noqa: ARG002
            return np.arange(2)

        def image_path(self, i: int) -> Path:  # noqa: ARG002
            return tmp_path / "image.png"

        def target(self, i: int) -> Any:
            mask = np.zeros((8, 8), np.uint8)
            mask[i * 4 :] = 1
            mask[:2] = IGNORED if i else 2
            return {"mask": mask}

    task = Segmentation(NAMES, class_weights="balanced").adapt(Masks())  # type: ignore[arg-type]
    # 16 pixels of class 0, 80 of class 1, 16 of class 2.
    assert task.class_weights == pytest.approx([1, 0.2, 1])
    assert Segmentation(NAMES).restore(task.spec()).class_weights == task.class_weights
