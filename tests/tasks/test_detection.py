"""Tests for the detection task: targets, loss, decoding, metrics, int8."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import albumentations
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from numpy.typing import NDArray

from kerakit.data.augment import Augmenter
from kerakit.data.placement import Placement
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.quantization.int8 import quantize_int8
from kerakit.deploy.quantization.ranges import collect_ranges
from kerakit.device.detection import Decoder, draw_boxes, overlaps, suppress
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import UserError
from kerakit.inference import output_names
from kerakit.tasks import Detection, Objects, make_task
from kerakit.tasks.detection_loss import DetectionLoss, generalized_iou, grid_points
from kerakit.tasks.detection_metrics import best_threshold, evaluate_coco, match
from kerakit.tflite.convert import convert_float
from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn
from kerakit.training.split_model import split_at

SIZE = (96, 64)
ARGS = SimpleNamespace(loss=["auto"], loss_weights=None, label_smoothing=0)


def _annotation(rows: Any) -> dict[str, NDArray[Any]]:
    """Return an annotation from rows of class, x1, y1, x2, y2, crowd."""
    values = np.array(rows, np.float32).reshape(-1, 6)
    return {
        "boxes": values[:, 1:5],
        "classes": values[:, 0].astype(np.int32),
        "crowd": values[:, 5] > 0,
    }


def _model(task: Detection, size: tuple[int, int] = SIZE) -> keras.Model:
    """Return a small detector with strides 2 to 8 and added levels."""
    image = keras.Input((size[1], size[0], 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for filters in (8, 16, 24):
        x = layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(image, task.head(x))


def _squares(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], Detection]:
    """Return images with bright and dark squares, their targets, and the task."""
    task = Detection(["bright", "dark"], filters=16, depth=1)
    task.max_boxes = 4
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 140, (count, SIZE[1], SIZE[0], 3), np.uint8)
    targets = []
    for image in images:
        rows = []
        for left in (4, 52):
            side, kind = int(rng.integers(16, 36)), int(rng.integers(2))
            x, y = left + int(rng.integers(0, 40 - side)), int(rng.integers(0, 64 - side))
            image[y : y + side, x : x + side] = (230, 20)[kind]
            rows.append([kind, x, y, x + side, y + side, 0])
        targets.append(task.encode(_annotation(rows), SIZE))
    return images, np.stack(targets), task


@pytest.fixture(scope="module")
def trained() -> tuple[Detection, keras.Model]:
    """A detector of squares."""
    keras.utils.set_random_seed(0)
    images, targets, task = _squares(64, seed=0)
    model = _model(task)
    model.compile(keras.optimizers.Adam(5e-3), **task.compile_options(model, ARGS))
    model.fit(images, targets, epochs=12, batch_size=8, verbose=0, shuffle=False)
    return task, task.inference_model(model)


# ------------------------------------------------------------------------------------------ targets


def test_target_clips_and_drops_boxes() -> None:
    """Boxes are clipped; those without area, outside, mostly cut away or NaN are dropped."""
    task = Detection(["a", "b"])
    task.max_boxes = 6
    rows = [
        [1, -10, 10, 30, 40, 0],  # 3/4 remain
        [0, -50, 10, 10, 40, 0],  # 1/6 remains
        [0, 20, 20, 20, 40, 0],
        [0, 40, 40, 20, 20, 0],
        [0, 200, 10, 220, 40, 0],
        [0, np.nan, 0, 10, 10, 0],
        [1, 50, 0, 96, 64, 1],
    ]
    target = task.encode(_annotation(rows), SIZE)
    assert target.dtype == np.float32
    assert target[:2].tolist() == [[1, 0, 10, 30, 40, 1], [1, 50, 0, 96, 64, -1]]
    assert not target[2:].any()
    assert task.format_annotation(target) == "1 b"


def test_image_without_objects_is_a_target() -> None:
    """No box: padding alone, and a finite loss."""
    task = Detection(["a"])
    target = task.encode(_annotation([]), SIZE)
    assert target.shape == (100, 6)
    assert not target.any()
    loss = DetectionLoss(1, SIZE, (8,))
    value = float(loss(target[None], np.zeros((1, 96, 6), np.float32)))
    assert np.isfinite(value)


def test_too_many_boxes_keep_the_largest_objects() -> None:
    """Crowds go first, then small boxes; the order stays."""
    task = Detection(["a"])
    task.max_boxes = 2
    rows = [[0, 0, 0, 90, 60, 1], [0, 0, 0, 5, 5, 0], [0, 0, 0, 9, 9, 0], [0, 2, 2, 10, 10, 0]]
    assert task.encode(_annotation(rows), SIZE)[:, 3].tolist() == [9, 10]


def test_number_of_rows_follows_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the most boxes of an image, at most 300, with a warning."""

    class _Reader:
        def __init__(self, count: int) -> None:
            self._count = count

        def __len__(self) -> int:
            return 2

        def target(self, i: int) -> dict[str, NDArray[Any]]:
            return _annotation([[0, 0, 0, 1, 1, 0]] * (self._count * i))

    task = Detection(["a"])
    for count, expected in ((0, 16), (20, 40), (10_000, 300)):
        assert task.adapt(_Reader(count)).max_boxes == expected  # type: ignore[arg-type]
    assert "up to 10,000 objects" in capsys.readouterr().out


@pytest.mark.parametrize("policy", ["stretch", "letterbox", "center_crop"])
def test_boxes_go_to_the_input_and_back(tmp_path: Any, policy: str) -> None:
    """A box in the middle keeps its place under each resize policy."""
    from PIL import Image

    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    placement = Placement(tmp_path / "a.png", Preprocessing(resize=policy), SIZE)
    task = Detection(["a"])
    fractions = np.array([[0.4, 0.3, 0.6, 0.7]], np.float32)
    moved = task.resize(
        {"boxes": fractions, "classes": np.array([0]), "crowd": np.array([False])}, placement
    )
    assert np.allclose(moved["boxes"].reshape(2, 2).mean(axis=0), [48, 32], atol=0.6)
    rows = np.column_stack([moved["boxes"] / (*SIZE, *SIZE), [[0.9, 0]]]).astype(np.float32)
    assert np.allclose(task.locate(rows, placement)[:, :4], fractions, atol=1e-6)


def test_augmentation_moves_boxes() -> None:
    """Flip and crop by albumentations; classes and crowds follow, cut boxes are dropped."""
    task = Detection(["a", "b"])
    annotation = _annotation([[1, 10, 20, 30, 40, 1], [0, 60, 0, 96, 64, 0]])
    pipeline = albumentations.Compose(
        [albumentations.HorizontalFlip(p=1), albumentations.Crop(0, 0, 40, 64)]
    )
    augmenter = Augmenter(lambda: pipeline, 0, task.compose_options())
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    augmented = augmenter(0, "a", image=image, **task.followers(annotation))
    moved = task.follow(annotation, augmented)
    assert moved["boxes"].tolist() == [[0, 0, 36, 64]]
    assert (moved["classes"].tolist(), moved["crowd"].tolist()) == ([0], [False])
    empty = _annotation([])
    augmented = augmenter(0, "a", image=image, **task.followers(empty))
    assert task.follow(empty, augmented)["boxes"].shape == (0, 4)


# --------------------------------------------------------------------------------------------- loss


def test_generalized_iou_of_known_boxes() -> None:
    """Equal boxes: 1; disjoint ones: minus the empty fraction of the hull; no area: defined."""
    boxes = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]], np.float32)
    others = np.array([[0, 0, 2, 2], [2, 0, 3, 1], [0, 0, 1, 2], [0, 0, 1, 1]], np.float32)
    found = ops.convert_to_numpy(generalized_iou(list(boxes.T), list(others.T)))
    assert found[:3] == pytest.approx([1, -1 / 3, 0.5])
    assert np.isfinite(found).all()


def _perfect(target: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Return outputs with an exact box of high score at the point nearest to each object."""
    points, strides = grid_points(SIZE, (8, 16))
    outputs = np.zeros((len(points), 5 + classes), np.float32)
    outputs[:, 4] = -20
    for kind, x1, y1, x2, y2, _ in target[target[:, 5] > 0]:
        at = np.abs(points - ((x1 + x2) / 2, (y1 + y2) / 2)).sum(axis=1).argmin()
        x, y = points[at]
        outputs[at, :4] = np.array([x - x1, y - y1, x2 - x, y2 - y]) / strides[at]
        outputs[at, 4] = 20
        outputs[at, 5:] = -20
        outputs[at, 5 + int(kind)] = 20
    return outputs


def test_perfect_outputs_have_almost_no_loss() -> None:
    """Exact boxes with high scores: loss near 0; a wrong class or a moved box costs more."""
    task = Detection(["a", "b"])
    rows = [[0, 4, 4, 28, 28, 0], [1, 50, 10, 90, 60, 0]]
    target = task.encode(_annotation(rows), SIZE)
    loss = DetectionLoss(2, SIZE, (8, 16))
    outputs = _perfect(target, 2)
    best = float(loss(target[None], outputs[None]))
    assert best < 0.01
    swapped = outputs[:, [0, 1, 2, 3, 4, 6, 5]]
    assert float(loss(target[None], swapped[None])) > best + 1
    moved = outputs.copy()
    moved[:, :4] *= 1.3
    assert float(loss(target[None], moved[None])) > best + 0.5


def test_crowds_are_no_background() -> None:
    """A confident point inside a crowd costs nothing; outside it does."""
    task = Detection(["a"])
    loss = DetectionLoss(1, SIZE, (8, 16))
    points, _ = grid_points(SIZE, (8, 16))
    outputs = np.zeros((len(points), 6), np.float32)
    outputs[:, 4] = np.where((points < 32).all(axis=1), 20, -20)
    crowd = task.encode(_annotation([[0, 0, 0, 32, 32, 1]]), SIZE)
    assert float(loss(crowd[None], outputs[None])) < 1e-3
    assert float(loss(np.zeros_like(crowd)[None], outputs[None])) > 100


def test_objects_smaller_than_a_cell_are_trained_on() -> None:
    """An object between the centers of cells has gradients of its box."""
    task = Detection(["a"])
    target = task.encode(_annotation([[0, 7, 7, 10, 10, 0]]), SIZE)
    loss = DetectionLoss(1, SIZE, (8, 16))
    points, _ = grid_points(SIZE, (8, 16))
    outputs = np.full((1, len(points), 6), 0.5, np.float32)
    before = float(loss(target[None], outputs))
    outputs[0, :, :4] = 0.2
    assert float(loss(target[None], outputs)) != pytest.approx(before, rel=1e-3)


def test_loss_is_per_image() -> None:
    """Sample weights select images."""
    task = Detection(["a"])
    target = np.stack(
        [task.encode(_annotation(rows), SIZE) for rows in ([[0, 4, 4, 28, 28, 0]], [])]
    )
    loss = DetectionLoss(1, SIZE, (8, 16))
    outputs = np.zeros((2, 120, 6), np.float32)
    values = ops.convert_to_numpy(loss.call(target, outputs))
    assert values.shape == (2,)
    weighted = float(loss(target, outputs, sample_weight=np.array([0.0, 1.0])))
    assert weighted == pytest.approx(values[1] / 2, rel=1e-5)


# ----------------------------------------------------------------------------------------- decoding


def _greedy(found: NDArray[Any], overlap: float) -> list[int]:
    """Return the result of the usual loop of non-maximum suppression."""
    remaining: list[int] = []
    for i, row in enumerate(found):
        rivals = [j for j in remaining if found[j, 5] == row[5]]
        if not rivals or overlaps(row[None], found[rivals]).max() <= overlap:
            remaining.append(i)
    return remaining


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 160), st.floats(0.2, 0.8))
def test_suppression_equals_the_loop(seed: int, count: int, overlap: float) -> None:
    """Blocks at once give the result of the loop."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 6), np.float32)
    found[:, :2] = rng.uniform(0, 80, (count, 2))
    found[:, 2:4] = found[:, :2] + rng.uniform(5, 20, (count, 2))
    found[:, 5] = rng.integers(0, 2, count)
    expected = _greedy(found, overlap)
    assert suppress(found, overlap, 1000).tolist() == expected
    assert suppress(found, overlap, 10).tolist() == expected[:10]


def _outputs(task: Detection, size: tuple[int, int] = SIZE) -> dict[str, NDArray[np.float32]]:
    """Return outputs of one image without objects."""
    outputs = {}
    for stride in (8, 16, 32):
        shape = size[1] // stride, size[0] // stride
        outputs[f"box_{stride}"] = np.zeros((*shape, 4), np.float32)
        outputs[f"object_{stride}"] = np.full((*shape, 1), -9, np.float32)
        outputs[f"class_{stride}"] = np.zeros((*shape, len(task.class_names)), np.float32)
    return outputs


def test_decoder_returns_boxes_as_fractions() -> None:
    """The sides of a box of the level of stride 16, its score and class; records in pixels."""
    task = Detection(["a", "b"])
    outputs = _outputs(task)
    outputs["object_16"][1, 2] = 3  # center: x 40, y 24
    outputs["class_16"][1, 2] = [-2, 2]
    outputs["box_16"][1, 2] = [1, 0.5, 1.5, 2]
    decoder = Decoder(task.spec())
    (row,) = found = decoder.decode(outputs)
    assert row[:4] * (*SIZE, *SIZE) == pytest.approx([24, 16, 64, 56])
    assert row[4] == pytest.approx(1 / (1 + np.exp(-3)) / (1 + np.exp(-2)))
    (record,) = decoder.describe(found, 5, (192, 128))
    sides = {"x1": 48.0, "y1": 32.0, "x2": 128.0, "y2": 112.0}
    assert record == {"label": "b", "confidence": pytest.approx(row[4]), **sides}
    assert decoder.caption(found) == "1 b"
    assert decoder.same(found, found)
    assert not decoder.same(found, found[:0])
    drawn = np.asarray(decoder.draw(np.zeros((64, 96, 3), np.uint8), found))
    assert drawn.shape == (64, 96, 3)
    assert drawn[40, 24].any()
    assert not drawn[40, 40].any()


def test_scores_near_the_threshold_are_ties() -> None:
    """A step that may move a score across the threshold is a tie."""
    task = Detection(["a"])
    task.threshold = 0.5
    outputs = _outputs(task)
    outputs["box_8"][:] = 2
    outputs["class_8"][:] = 9
    outputs["object_8"][3, 3] = 0.05
    assert Decoder(task.spec()).ties(outputs, 0.1)
    assert not Decoder(task.spec()).ties(outputs, 0.001)


def test_no_object_is_a_prediction() -> None:
    """Nothing above the threshold: no record, and an image without boxes."""
    task = Detection(["a"])
    found = Decoder(task.spec()).decode(_outputs(task))
    assert found.shape == (0, 6)
    assert task.describe(found) == []
    assert task.format_prediction(found) == "no object"
    image = np.zeros((64, 96, 3), np.uint8)
    assert not task.overlay(image, found).any()
    assert not np.asarray(draw_boxes(image, found, ["a"])).any()


# ------------------------------------------------------------------------------------------ metrics


def test_coco_metrics_of_known_boxes() -> None:
    """Overlaps of 1 and 0.74, a missed object, and a false one of another class."""
    true = np.array(
        [[0, 0, 0, 20, 20, 1], [0, 40, 0, 60, 20, 1], [1, 0, 30, 20, 50, 1]], np.float32
    )
    found = np.array([[0, 0, 20, 20, 0.9, 0], [42, 2, 62, 20, 0.8, 0], [50, 30, 70, 50, 0.7, 1]])
    result = evaluate_coco([found], [true], 2)
    summary = result.summary()
    assert result.average_precision(0.5) == [1.0, 0.0]
    assert summary["map50"] == 0.5
    assert summary["map"] == pytest.approx((0.5 * 1 + 0.5 * 51 / 101) / 2)
    assert summary["map_small"] == summary["map"]
    assert "map_large" not in summary


def test_crowds_and_empty_images_in_metrics() -> None:
    """Objects inside a crowd are ignored; no objects and no predictions are defined."""
    crowd = np.array([[0, 0, 0, 50, 50, -1], [0, 60, 60, 90, 90, 1]], np.float32)
    found = np.array([[0, 0, 20, 20, 0.9, 0], [60, 60, 90, 90, 0.5, 0]], np.float32)
    assert evaluate_coco([found], [crowd], 1).summary()["map50"] == 1
    matches = match([found], [crowd])
    assert (matches.scores.tolist(), matches.correct.tolist()) == ([0.5], [True])
    assert matches.count_errors(1).tolist() == [0]
    nothing = np.zeros((0, 6), np.float32)
    assert evaluate_coco([nothing], [crowd], 1).summary()["map50"] == 0
    assert evaluate_coco([found], [nothing], 1).summary()["map50"] == 0
    assert evaluate_coco([nothing, found], [crowd, nothing], 1).summary()["map50"] == 0


def test_threshold_separates_true_and_false_objects() -> None:
    """True objects score 0.6, false ones 0.4."""
    true = np.array([[0, 0, 0, 20, 20, 1]], np.float32)
    found = np.array([[0, 0, 20, 20, 0.6, 0], [50, 50, 70, 70, 0.4, 0]], np.float32)
    matches = match([found], [true])
    assert best_threshold(matches, 1, 0.3) == pytest.approx(0.51, abs=0.02)
    assert best_threshold(match([found[:0]], [true]), 1, 0.3) == 0.3


# ------------------------------------------------------------------------------ the task as a whole


def test_detector_finds_squares(trained: tuple[Detection, keras.Model]) -> None:
    """A short training finds and classifies squares; the breakdown fits the metrics."""
    task, model = trained
    images, targets, _ = _squares(32, seed=1)
    outputs = model.predict(images, verbose=0)
    task.check_outputs(outputs)
    predictions = task.decode(outputs)
    assert isinstance(predictions, Objects)
    metrics = task.score(predictions, targets)
    assert next(iter(metrics)) == task.main_metric
    assert metrics["map50"] > 0.9
    task.calibrate(predictions, targets)
    details = task.details(predictions, targets)
    assert np.mean(details["classes"]["ap50"]) == pytest.approx(metrics["map50"])
    assert sum(details["classes"]["objects"]) == 64
    assert min(details["classes"]["f1"]) > 0.8
    assert task.agreement(predictions, predictions) == 1
    wrong = task.mistakes(predictions, targets)
    assert len(wrong) < 16
    assert task.overlay(images[0], predictions[0], targets[0]).shape == images[0].shape
    assert set(task.plot(predictions, targets)) == {"precision_recall"}
    assert len(task.report({"Keras": predictions, "int8": predictions}, targets)) == 2
    restored = make_task(task.spec())
    assert isinstance(restored, Detection)
    assert restored.spec() == task.spec()


def test_int8_detector_equals_float32(trained: tuple[Detection, keras.Model]) -> None:
    """All operators map to the Edge TPU, and int8 loses less than a point of mAP."""
    task, model = trained
    images, targets, _ = _squares(32, seed=1)
    content = convert_float(model)
    quantized = quantize_int8(content, collect_ranges(content, images[:16]))
    assert {one.verdict.target for one in forecast(quantized).operators} == {"tpu"}
    maps = [
        task.score(task.decode(predict(images)), targets)["map50"]
        for predict in (
            tflite_predict_fn(start_interpreter(each, "detector"), output_names(model))
            for each in (content, quantized)
        )
    ]
    assert maps[1] > maps[0] - 0.01


def test_part_above_frozen_layers_has_an_inference_model() -> None:
    """The head that training fits on stored features has the same outputs as the whole model."""
    task = Detection(["a"], filters=8, depth=1)
    model = _model(task)
    lower, upper = split_at(model, "features")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    part = task.inference_model(upper)(lower(images))
    whole = task.inference_model(model)(images)
    assert list(part) == list(whole)
    for name, values in whole.items():
        assert np.allclose(part[name], values, atol=1e-5)


def test_input_sizes_are_multiples_of_32() -> None:
    """Another size is an error before anything is built."""
    with pytest.raises(UserError, match="multiples of 32, got 100,64"):
        _model(Detection(["a"]), (100, 64))


def test_other_outputs_are_errors() -> None:
    """A model without the head of the task is named."""
    task = Detection(["a"])
    image = keras.Input((64, 96, 3))
    with pytest.raises(UserError, match="5 \\+ 1 classes"):
        task.check_model(keras.Model(image, layers.GlobalAveragePooling2D()(image)))
    task.check_model(_model(task))
    with pytest.raises(UserError, match="NaN"):
        task.check_outputs({"box_8": np.full((2, 3), np.nan)})


def test_text_grows_with_the_image() -> None:
    image = np.zeros((3000, 4000, 3), np.uint8)
    row = np.array([[0.2, 0.2, 0.6, 0.6, 0.9, 0]], np.float32)
    drawn = np.asarray(draw_boxes(image, row, ["cat"]))
    above = drawn[:590, 700:1300]
    rows = np.flatnonzero((above.min(-1) > 200).any(1))  # white letters
    assert 35 < np.ptp(rows) < 70
    small = np.asarray(draw_boxes(image[:600, :800], row, ["cat"]))[:118]
    assert np.ptp(np.flatnonzero((small.min(-1) > 200).any(1))) < 14


def test_labels_of_boxes_at_the_border_are_drawn_whole() -> None:
    from kerakit.device.detection import draw_boxes

    drawn = [
        np.asarray(
            draw_boxes(
                np.zeros((64, 128, 3), np.uint8), np.array([[x, 0.5, x, 0.9, 0.9, 0]]), ["c"]
            )
        )
        for x in (0.3, 1.0)
    ]
    # The label is filled in the color of the class.
    middle, right = ((image[18:30] > 0).any(-1).sum() for image in drawn)
    assert right == pytest.approx(middle, abs=12)
