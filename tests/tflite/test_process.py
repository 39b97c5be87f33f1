"""Unknown TensorFlow Lite files in a process of their own, and the values of their pixels."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from digits import Exported
from kerakit import UserError
from kerakit.tflite.process import ModelProcess
from kerakit.tflite.runtime import load_tflite, pixel_encoder
from mutations import mutate


def predict_mutated(content: bytes, seeds: range) -> int:
    """Predict with damaged copies of a file; return the number of those that run."""
    process, ran = ModelProcess(timeout_s=60), 0
    for seed in seeds:
        with contextlib.suppress(UserError):
            model = process.load(mutate(content, seed))
            width, height = model.input_size
            process.predict(np.zeros((1, height, width, 3), np.uint8))
            ran += 1
    return ran


def test_damaged_files_cause_messages(exported_digits: Exported) -> None:
    ran = predict_mutated(exported_digits.int8.read_bytes(), range(100))
    assert 10 < ran < 90


@pytest.mark.slow
def test_many_damaged_files_cause_messages(exported_digits: Exported) -> None:
    assert predict_mutated(exported_digits.int8.read_bytes(), range(900)) > 90


def test_it_predicts_like_this_process(exported_digits: Exported) -> None:
    process = ModelProcess()
    model = process.load(exported_digits.int8.read_bytes())
    assert (model.input_size, model.outputs, model.assumption) == ((8, 8), ((1, 10),), "")
    images = exported_digits.held_out[:8]
    (scores,) = process.predict(images)
    np.testing.assert_array_equal(scores, load_tflite(exported_digits.int8)(images))


def test_a_file_that_ends_or_stops_the_process(exported_digits: Exported) -> None:
    process = ModelProcess()
    content = exported_digits.int8.read_bytes()
    process.load(content)
    assert process._process is not None
    process._process.kill()  # as an error in native code does
    process._process.wait()
    with pytest.raises(UserError, match="it ended LiteRT"):
        process.predict(exported_digits.held_out[:1])
    process.load(content)
    with pytest.raises(UserError, match="ran out of time or memory"):
        ModelProcess(timeout_s=0).load(content)


def details(dtype: Any, scale: float, zero_point: int) -> dict[str, Any]:
    return {"dtype": dtype, "quantization": (scale, zero_point)}


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "low", "high"),
    [
        (np.uint8, 0.0, 0, 0, 255),
        (np.uint8, 1.0, 0, 0, 255),
        (np.int8, 1.0, -128, 0, 255),
        (np.int8, 1 / 255, -128, 0, 1),
        (np.int8, 0.95 / 255, -128, 0, 0.95),  # calibrated without white: it is clipped
        (np.int8, 2 / 255, 0, -1, 1),
        (np.uint8, 1 / 128, 128, -1, 1),
        (np.int8, 1 / 128, -1, -1, 1),
        (np.int16, 255 / 32767, 0, 0, 255),
    ],
)
def test_pixels_are_quantized_by_scale_and_zero_point(
    dtype: Any, scale: float, zero_point: int, low: float, high: float
) -> None:
    encode, assumption = pixel_encoder(details(dtype, scale, zero_point))
    stored = encode(np.arange(256, dtype=np.uint8))
    assert (stored.dtype, assumption) == (dtype, "")
    real = (scale or 1) * (stored.astype(float) - zero_point)
    wanted = np.clip(np.linspace(low, 1 if high == 0.95 else high, 256), None, high)
    assert np.abs(real - wanted).max() <= (scale or 1) + 1e-9


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "message"),
    [
        (np.int8, 0.0, 0, "without a scale"),
        (np.int32, 0.0, 0, "without a scale"),
        (np.int8, float("nan"), 0, "without a scale"),
        (np.bool_, 0.0, 0, "without a scale"),
        (np.int8, 4.7 / 255, -14, "no usual range of pixels"),  # mean and deviation of ImageNet
        (np.int16, 1 / 32767, 0, "both 0 to 1 and -1 to 1"),
        (np.int16, 1.0, 0, "no usual range of pixels"),
    ],
)
def test_unknown_values_of_pixels_are_refused(
    dtype: Any, scale: float, zero_point: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pixel_encoder(details(dtype, scale, zero_point))


def test_what_is_assumed_is_said() -> None:
    encode, assumption = pixel_encoder(details(np.float32, 0.0, 0))
    assert encode(np.array([0, 255], np.uint8)).tolist() == [0.0, 255.0]
    assert "assumed: pixels from 0 to 255" in assumption
    _, assumption = pixel_encoder(details(np.uint8, 4.7 / 255, 114))
    assert "assumed: pixels from 0 to 255" in assumption
