"""The task of keypoints: mirrored pairs, heatmaps, metrics, drawing, int8."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A  # noqa: N812 - as in its documentation
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from PIL import Image

from kerakit import UserError
from kerakit.data import Preprocessing
from kerakit.data.augment import Augmenter
from kerakit.data.placement import Placement
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.quantization.int8 import quantize_int8
from kerakit.deploy.quantization.ranges import collect_ranges
from kerakit.tasks.keypoint_losses import PCK, keypoint_loss
from kerakit.tasks.keypoints import Keypoints
from kerakit.tflite.convert import convert_float

NAMES = ["nose", "left_eye", "right_eye"]
PAIRS = [("left_eye", "right_eye")]
TASK = Keypoints(NAMES, PAIRS)
SIZE = (48, 32)


def floats(values: Any) -> Any:
    return np.array(values, np.float32)


def augment(transform: Any, points: Any, task: Keypoints = TASK) -> Any:
    """Return points, (n, 3) in pixels, as the generator augments them."""
    annotation = {"keypoints": floats(points)}
    augmenter = Augmenter(lambda: A.Compose([transform]), 0, task.compose_options())
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    augmented = augmenter(0, "key", image=image, **task.followers(annotation))
    augmented.pop("image")
    return task.follow(annotation, augmented)["keypoints"]


POINTS = [[20, 10, 2], [30, 5, 1], [10, 6, 2]]


@pytest.mark.parametrize(
    ("transform", "swapped"),
    [
        (A.HorizontalFlip(p=1), True),
        (A.VerticalFlip(p=1), True),
        (A.Transpose(p=1), True),
        (A.Rotate((180, 180), p=1), False),
        (A.Rotate((30, 30), p=1), False),
        (A.Affine(scale=(0.5, 0.5), translate_px=(9, 9), p=1), False),
        (A.Compose([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)]), False),
    ],
)
def test_pairs_swap_in_mirrored_images_alone(transform: Any, swapped: bool) -> None:
    moved = augment(transform, POINTS)
    plain = augment(transform, POINTS, Keypoints(NAMES))
    np.testing.assert_array_equal(moved, plain[[0, 2, 1]] if swapped else plain)
    assert moved[:, 2].tolist() == ([2, 2, 1] if swapped else [2, 1, 2])


def test_a_flip_is_exact() -> None:
    width = SIZE[0]
    expected = floats([[20, 10, 2], [10, 6, 2], [30, 5, 1]])
    expected[:, 0] = width - 1 - expected[:, 0]
    found = augment(A.HorizontalFlip(p=1), POINTS)
    # Whether a pixel's center is an integer is up to the transform.
    np.testing.assert_allclose(found, expected, atol=1)


def test_points_outside_of_the_input_are_absent() -> None:
    points = floats([[-0.1, 3, 2], [3, 32, 1], [47.9, 31.9, 1]])
    assert TASK.encode({"keypoints": points}, SIZE)[:, 2].tolist() == [0, 0, 1]
    points[:] = [np.nan, 3, 2], [1, 1, 0], [0, 0, 2]
    assert TASK.encode({"keypoints": points}, SIZE).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
def test_positions_return_to_their_image(resize: str, tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "image.png")
    placement = Placement(tmp_path / "image.png", Preprocessing(resize=resize), SIZE)
    original = floats([[0.5, 0.5, 2], [0.4, 0.2, 1], [0.6, 0.9, 2]])
    pixels = TASK.resize({"keypoints": original}, placement)["keypoints"]
    prediction = np.concatenate([pixels[:, :2] / SIZE, [[0.9]] * 3], axis=1)
    located = TASK.locate(prediction, placement)
    np.testing.assert_allclose(located[:, :2], original[:, :2], atol=1e-6)
    record = TASK.describe(located, size=(100, 50))[1]
    assert record["point"] == "left_eye"
    assert len(TASK.describe(located)) == 3
    assert len(TASK.describe(located, top=1)) == 1
    assert (record["x"], record["y"]) == pytest.approx((40, 10), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": []}, "at least one point"),
        ({"pairs": [("nose", "mouth")]}, "pairs: expected pairs of"),
        ({"pairs": [*PAIRS, ("nose", "left_eye")]}, "occurs twice"),
        ({"sigmas": [0.1]}, "sigmas: expected 3"),
        ({"skeleton": [("nose",)]}, "skeleton: expected pairs"),
        ({"stride": 3}, "stride is 3"),
    ],
)
def test_bad_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Keypoints(**{"class_names": NAMES, **options})


def test_another_number_of_points_is_an_error(tmp_path: Path) -> None:
    placement = Placement(tmp_path / "image.png", Preprocessing(), SIZE)
    with pytest.raises(UserError, match=r"shape \(2, 3\); expected \(3, 3\)"):
        TASK.resize({"keypoints": np.zeros((2, 3))}, placement)


# ---------------------------------------------------------------------------------------- metrics

PLACES = st.lists(
    st.tuples(st.floats(0, 47.9), st.floats(0, 31.9), st.integers(0, 2)), min_size=3, max_size=3
)


def outputs_of(targets: Any) -> dict[str, Any]:
    """Return outputs for targets (n, 3, 3) that decoding turns back into them."""
    rows, columns = SIZE[1] // 4, SIZE[0] // 4
    heatmaps = np.full((len(targets), rows, columns, 3), -9, np.float32)
    offsets = np.zeros((len(targets), rows, columns, 3, 2), np.float32)
    for i, points in enumerate(targets):
        for j, (x, y, visibility) in enumerate(points):
            row, column = int(y / 4), int(x / 4)
            heatmaps[i, row, column, j] = 9 if visibility else -8
            offsets[i, row, column, j] = x / 4 - column - 0.5, y / 4 - row - 0.5
    return {"heatmaps": heatmaps, "offsets": offsets.reshape(len(targets), rows, columns, 6)}


@given(PLACES)
def test_outputs_are_decoded_to_their_positions(points: Any) -> None:
    targets = TASK.encode({"keypoints": floats(points)}, SIZE)[None]
    predictions = TASK.decode(outputs_of(targets))
    present = targets[..., 2] > 0
    np.testing.assert_allclose(predictions.pixels[present], targets[present][:, :2], atol=1e-3)
    assert (predictions.points[..., 2][present] > 0.99).all()
    assert (predictions.points[..., 2][~present] < 0.01).all()
    if present.any():
        scores = TASK.score(predictions, targets)
        assert (scores["pck"], scores["pck@0.05"]) == (1, 1)
        assert scores["mean_distance"] < 1e-3 or len(np.unique(targets[present], axis=0)) > 1


def test_scores_of_an_exact_case() -> None:
    # The box around the points is 20 pixels wide: 1, 3 and 9 pixels are 0.05, 0.15 and 0.45.
    targets = floats([[[10, 8, 2], [30, 8, 1], [20, 16, 2]], [[0, 0, 0], [0, 0, 0], [9, 9, 2]]])
    found = targets.copy()
    found[0, :, 0] += [1, 3, 9]
    found[1, 2, 0] += 4  # of 48, the side of the input: a single point has no box
    predictions = TASK.decode(outputs_of(np.where(found[..., 2:] > 0, found, 0)))
    task = Keypoints(NAMES, sigmas=[0.1, 0.1, 0.1])
    scores = task.score(predictions, targets)
    assert scores["pck"] == scores["pck@0.05"] + 0.25 == 0.5
    assert scores["pck@0.2"] == 0.75
    assert scores["mean_distance"] == pytest.approx((0.05 + 0.15 + 0.45 + 4 / 48) / 4, abs=1e-6)
    # exp(-d² / (2 · area · (2 sigma)²)), as in the evaluation of COCO.
    similarity = [np.exp(-(d**2) / (2 * 20 * 8 * 0.04)) for d in (1, 3, 9)]
    alone = np.exp(-(4**2) / (2 * 48 * 48 * 0.04))
    assert scores["oks"] == pytest.approx((np.mean(similarity) + alone) / 2)

    details = task.details(predictions, targets)["classes"]
    assert details["images"] == [1, 1, 2]
    assert details["pck"] == [1, 0, 0.5]
    assert task.mistakes(predictions, targets).tolist() == [0]
    with pytest.raises(UserError, match="no point"):
        task.score(predictions, np.zeros_like(targets))


def test_reports_and_drawings() -> None:
    task = Keypoints(NAMES, PAIRS, skeleton=[("nose", "left_eye")])
    targets = floats([POINTS])
    predictions = task.decode(outputs_of(targets))
    (section,) = task.report({"Keras": predictions, "int8": predictions}, targets)
    assert section.heading == "Metrics per point"
    image = np.zeros((32, 48, 3), np.uint8)
    drawn = task.overlay(image, predictions[0], targets[0])
    assert drawn.any()
    assert task.draw(image, predictions[0], targets[0]).height > 32 + 2 * 14  # wrapped
    assert task.format_annotation(targets[0]) == "all 3 points"
    targets[0, 1, 2] = 0
    assert task.format_annotation(targets[0]) == "nose, right_eye"
    assert (
        task.format_prediction(predictions[0])
        == "nose 42%|31%, left_eye 62%|16%, right_eye 21%|19%"
    )


# ------------------------------------------------------------------------------------------- loss


def test_the_loss_is_lowest_at_the_true_outputs() -> None:
    targets = floats([POINTS, [[5, 5, 2], [0, 0, 0], [0, 0, 0]], np.zeros((3, 3))])
    loss = keypoint_loss(3, 4)

    def evaluate(outputs: dict[str, Any]) -> Any:
        packed = np.concatenate([outputs["heatmaps"], outputs["offsets"]], axis=-1)
        return keras.ops.convert_to_numpy(loss(targets, packed))

    outputs = outputs_of(targets)
    best = evaluate(outputs)
    assert np.isfinite(best).all()
    assert best[2] < 0.01  # heatmaps without points are 0
    for name, change in (("heatmaps", 6), ("offsets", 1)):
        worse = evaluate({**outputs, name: outputs[name] + change})
        assert (worse > best)[:2].all()


def test_the_logged_pck_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, SIZE, (64, 3, 2)), rng.integers(0, 3, (64, 3, 1))], -1)
    targets = np.stack([TASK.encode({"keypoints": each}, SIZE) for each in points])
    targets[0, 0], targets[1] = targets[0, 1], 0  # two points at one place; no point
    found = np.clip(targets + rng.normal(0, 2, targets.shape), 0, [47.9, 31.9, 2])
    outputs = outputs_of(found)
    metric = PCK(3, 4)
    metric.update_state(targets, np.concatenate([outputs["heatmaps"], outputs["offsets"]], -1))
    expected = TASK.score(TASK.decode(outputs), targets)["pck"]
    assert 0.3 < float(metric.result()) < 1
    assert float(metric.result()) == pytest.approx(expected)


# ------------------------------------------------------------------------------- a trained model


def draw_faces(count: int, seed: int) -> tuple[Any, Any]:
    """Return images (n, 32, 48, 3) with three dots of different colors, and targets."""
    rng = np.random.default_rng(seed)
    images = rng.normal(60, 15, (count, 32, 48, 3))
    targets = np.zeros((count, 3, 3), np.float32)
    rows, columns = np.mgrid[:32, :48] + 0.5
    for image, points in zip(images, targets, strict=True):
        x, y = rng.uniform(12, 36), rng.uniform(12, 20)
        points[:] = [x, y + 6, 2], [x + 8, y - 4, 2], [x - 8, y - 4, 2]
        for j, (px, py, _) in enumerate(points):
            near = np.exp(-((columns - px) ** 2 + (rows - py) ** 2) / 8)
            image[..., j] += 180 * near
    return np.clip(images, 0, 255).astype(np.uint8), targets


def test_a_model_is_trained_and_exported_to_int8() -> None:
    keras.utils.set_random_seed(0)
    task = Keypoints(NAMES, channels=32)
    image = keras.Input((32, 48, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (8, 16, 24, 32):
        x = layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization(momentum=0.9)(x))
    model = keras.Model(image, task.head(x))
    task.check_model(model)
    args = SimpleNamespace(loss=("auto",), loss_weights=None, label_smoothing=0)
    model.compile(keras.optimizers.Adam(5e-3), **task.compile_options(model, args))
    images, targets = draw_faces(128, 0)
    model.fit(images, targets, 16, epochs=12, verbose=0)

    exported = task.inference_model(model)
    held_out, true = draw_faces(24, 1)
    predictions = task.decode(exported.predict(held_out, verbose=0))
    scores = task.score(predictions, true)
    assert scores["pck@0.2"] > 0.9
    logged = model.evaluate(held_out, true, verbose=0, return_dict=True)
    assert logged["pck"] == pytest.approx(scores["pck"], abs=0.02)

    content = convert_float(exported)
    quantized = quantize_int8(content, collect_ranges(content, images[:32]))
    found = forecast(quantized)
    assert found.on_tpu == len(found.operators)
    of_int8 = task.decode(run_int8(quantized, held_out))
    assert task.score(of_int8, true)["pck"] >= scores["pck"] - 0.03
    assert np.abs(of_int8.pixels - predictions.pixels).mean() < 0.5


def run_int8(content: bytes, images: Any) -> dict[str, Any]:
    """Return heatmaps and offsets, by their channels."""
    from kerakit.tflite.runtime import dequantize, start_interpreter

    interpreter = start_interpreter(content, "int8")
    (image,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    found: dict[str, list[Any]] = {"heatmaps": [], "offsets": []}
    for pixels in images:
        interpreter.set_tensor(image["index"], pixels[None])
        interpreter.invoke()
        for one in outputs:
            name = "heatmaps" if one["shape"][-1] == len(NAMES) else "offsets"
            values = interpreter.get_tensor(one["index"])[0]
            found[name].append(dequantize(values, *one["quantization"]))
    return {name: np.stack(values) for name, values in found.items()}
