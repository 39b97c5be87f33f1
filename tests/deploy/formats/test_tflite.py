"""Every format, by the real converters and the real runtimes, on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from digits import TRAINED, calibration, digits
from kerakit import JobError
from kerakit.deploy.formats.base import ExportSource, Format, WrittenFormat
from kerakit.deploy.formats.keras import H5, KERAS
from kerakit.deploy.formats.onnx import ONNX
from kerakit.deploy.formats.openvino import OPENVINO
from kerakit.deploy.formats.saved_model import SAVED_MODEL
from kerakit.deploy.formats.tflite import DYNAMIC_RANGE, FLOAT16, FLOAT32, INT8, INT16X8
from kerakit.inference import PredictFn
from kerakit.tflite.graph import read_graph
from kerakit.tflite.runtime import start_interpreter

FORMATS: tuple[Format, ...] = (
    *(H5, KERAS, SAVED_MODEL, FLOAT32, FLOAT16, DYNAMIC_RANGE, INT8, ONNX, OPENVINO, INT16X8),
)
"""All but edgetpu, whose compiler is not available."""

TOLERANCES = {"float16": 0.005, "dynamic_range": 0.05, "int8": 0.1, "int16x8": 0.05}
"""Largest difference of a score; 2e-5 for the other formats."""


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network trained for a second on digits."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(16, 3, activation="relu6", padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(10, activation="softmax")(layers.Dropout(0.1)(x)))
    model.compile("adam", "sparse_categorical_crossentropy")
    images, targets = digits()
    model.fit(images[:TRAINED], targets[:TRAINED], epochs=4, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def written(
    model: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, WrittenFormat]:
    """Every format of ``model``, in one folder."""
    folder = tmp_path_factory.mktemp("formats")
    source = ExportSource(model, calibration(digits()[0][:100]), folder)
    return {one.name: one.write(source) for one in FORMATS}


def load(one: Format, written: dict[str, WrittenFormat]) -> PredictFn:
    predict = one.load(written[one.name].path)
    assert predict is not None
    return predict


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_the_loaded_file_agrees_with_the_model(
    one: Format, model: keras.Model, written: dict[str, WrittenFormat]
) -> None:
    assert written[one.name].path.name == one.file
    images, targets = (part[TRAINED:] for part in digits())
    predict = load(one, written)
    outputs = predict(images)
    expected = model.predict(images, verbose=0)
    assert outputs.dtype == np.float32
    assert np.mean(expected.argmax(1) == targets) > 0.9
    assert np.mean(outputs.argmax(1) == expected.argmax(1)) > 0.97
    tolerance = TOLERANCES.get(one.name, 2e-5)
    assert np.quantile(np.abs(outputs - expected), 0.99 if one is INT8 else 1) < tolerance
    np.testing.assert_allclose(predict(images[:1]), outputs[:1], atol=2e-6)


def test_details_are_those_of_the_calibration(written: dict[str, WrittenFormat]) -> None:
    calibrated = {name for name, one in written.items() if "calibration" in one.details}
    assert calibrated == {"int8", "int16x8"}
    expected = calibration(digits()[0][:100]).to_json()
    assert written["int8"].details == written["int16x8"].details == {"calibration": expected}


def test_sizes_follow_the_type_of_the_weights(written: dict[str, WrittenFormat]) -> None:
    sizes = {name: one.path.stat().st_size for name, one in written.items() if one.path.is_file()}
    assert sizes["float16"] < 0.6 * sizes["float32"]
    for name in ("dynamic_range", "int8", "int16x8"):
        assert sizes[name] < 0.4 * sizes["float32"], name


def test_the_int8_file_accepts_raw_pixels_and_has_no_float(
    written: dict[str, WrittenFormat],
) -> None:
    content = written["int8"].path.read_bytes()
    interpreter = start_interpreter(content, "model.tflite")
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert into["dtype"] is out["dtype"] is np.uint8
    # Pixels from 0 to 255 are real values from -1 to 1, without operators.
    assert into["quantization"] == (pytest.approx(1 / 127.5), 127)
    assert [one.op for one in read_graph(content).operators][:2] == ["QUANTIZE", "CONV_2D"]
    assert into["shape"].tolist() == into["shape_signature"].tolist() == [1, 8, 8, 3]
    tensors = interpreter.get_tensor_details()
    assert {tensor["dtype"] for tensor in tensors} <= {np.uint8, np.int8, np.int32}
    # Read from the file: LiteRT repeats the one scale per output when it allocates tensors.
    scales = {
        one.op: one.weighted.weights.scales.size
        for one in read_graph(content).operators
        if one.weighted
    }
    assert scales == {"CONV_2D": 16, "FULLY_CONNECTED": 1}


def test_half_of_the_calibration_images_make_another_file(
    model: keras.Model, written: dict[str, WrittenFormat], tmp_path: Path
) -> None:
    half = written["int8"].half
    assert half is not None
    assert half.parent == written["int8"].path.parent
    assert half.name != INT8.file
    first = ExportSource(model, calibration(digits()[0][:50]), tmp_path)
    FLOAT32.write(first)
    alone = INT8.write(first).path.read_bytes()
    one, other = read_graph(half.read_bytes()), read_graph(alone)
    assert [t.scales.tolist() for t in one.tensors] == [t.scales.tolist() for t in other.tensors]
    single = ExportSource(model, calibration(digits()[0][:1]), tmp_path)
    assert INT8.write(single).half is None


def test_a_layer_that_the_converter_lacks_is_a_job_error(tmp_path: Path) -> None:
    import tensorflow as tf

    class Unsupported(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.raw_ops.Betainc(a=x, b=x, x=x)

    image = keras.Input((4, 4, 3))
    model = keras.Model(image, Unsupported()(image))
    with pytest.raises(JobError, match="TensorFlow Lite lacks operators of the model: Betainc"):
        FLOAT32.write(ExportSource(model, calibration(digits()[0][:1]), tmp_path))


def test_the_output_of_converters_stays_out_of_the_terminal(
    model: keras.Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = ExportSource(model, calibration(digits()[0][:4]), tmp_path)
    for one in FORMATS:
        one.load(one.write(source).path)
    assert capfd.readouterr() == ("", "")
