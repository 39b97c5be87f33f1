"""The real converters and the real runtimes, on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from kerakit import JobError
from kerakit.deploy import litert, quantize
from kerakit.deploy.export import FORMATS, _written
from kerakit.deploy.formats.base import Source
from kerakit.deploy.formats.tflite import FLOAT32, INT8, INT16X8, int8_problems
from kerakit.deploy.quantization.calibration import Calibration


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    data = load_digits()
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), data.target


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network trained for a second on real digits; its layers have names that a converter may stumble over."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(16, 3, activation="relu6", padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(10, activation="softmax")(layers.Dropout(0.1)(x)))
    model.compile("adam", "sparse_categorical_crossentropy")
    images, targets = digits()
    model.fit(images[:1500], targets[:1500], epochs=4, batch_size=32, verbose=0)
    return model


def calibration(images: Any) -> Calibration:
    return Calibration(tuple(f"{i}.png" for i in range(len(images))), lambda: iter(images))


def source(model: Any, folder: Path) -> Source:
    return Source(model, calibration(digits()[0][:100]), folder)


EXACT = ("h5", "keras", "saved_model", "float32", "onnx", "openvino")
NEAR = {"float16": 0.005, "dynamic_range": 0.05, "int16x8": 0.05}


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "edgetpu"])
def test_what_is_loaded_again_answers_like_the_model(
    name: str, model: keras.Model, tmp_path: Path
) -> None:
    one = FORMATS[name]
    written = _written(one, source(model, tmp_path))
    assert written.path == tmp_path / one.file
    images, targets = (part[1500:] for part in digits())
    predict = one.load(written.path)
    assert predict is not None
    predicted = predict(images)
    expected = model.predict(images, verbose=0)
    assert predicted.dtype == np.float32
    assert np.mean(expected.argmax(1) == targets) > 0.9
    if name == "int8":
        assert np.mean(predicted.argmax(1) == expected.argmax(1)) > 0.97
    else:
        np.testing.assert_allclose(predicted, expected, atol=2e-5 if name in EXACT else NEAR[name])
        np.testing.assert_allclose(predict(images[:1]), predicted[:1], atol=2e-6)
    assert ("calibration" in written.details) == (name in ("int8", "int16x8"))


def test_the_int8_file_takes_raw_pixels_and_holds_no_float(
    model: keras.Model, tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(_written(INT8, source(model, tmp_path)).path))
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert into["dtype"] is out["dtype"] is np.uint8
    assert into["quantization"] == (1.0, 0)
    assert into["shape"].tolist() == into["shape_signature"].tolist() == [1, 8, 8, 3]
    assert {t["dtype"] for t in interpreter.get_tensor_details()} <= {np.uint8, np.int8, np.int32}
    dense = [t for t in interpreter.get_tensor_details() if t["shape"].tolist() == [10, 1024]]
    assert [len(t["quantization_parameters"]["scales"]) for t in dense] == [1]


def test_a_scale_for_each_dense_output_is_found(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TensorFlow's quantiser makes if it is not told otherwise: a constant on the runtimes of Coral's devices."""
    from tensorflow.lite.python import convert

    real = convert.mlir_quantize

    def untold(*args: Any, disable_per_channel_for_dense_layers: bool, **options: Any) -> bytes:
        quantized: bytes = real(*args, **options)
        return quantized

    monkeypatch.setattr(convert, "mlir_quantize", untold)
    with pytest.raises(JobError, match="a scale for each output"):
        _written(INT8, source(model, tmp_path))
    assert not (tmp_path / INT8.file).exists()


def test_an_input_that_is_not_raw_pixels_is_found(model: keras.Model) -> None:
    """As of a model that wants 0 to 1: the device would have to divide, and nobody would tell it."""
    import tensorflow as tf

    converter = litert._converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [image[None] / np.float32(255)] for image in digits()[0][:20]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    assert any(
        "does not take raw pixels" in p for p in int8_problems(litert._convert(converter.convert))
    )


def test_dark_calibration_images_do_not_shift_the_input(model: keras.Model, tmp_path: Path) -> None:
    dark = calibration((digits()[0] // 4)[:50])
    written = _written(INT8, Source(model, dark, tmp_path))
    assert int8_problems(written.path.read_bytes()) == []
    assert written.details == {"calibration": {"images": 50, "sha256": dark.sha256}}


def test_ranges_are_those_of_each_layer() -> None:
    """Also where an addition writes its sum over one of its inputs: TensorFlow's calibrator then takes the sum's for both."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", name="first")(
        layers.Rescaling(1 / 127.5, offset=-1)(image)
    )
    second = layers.Conv2D(4, 3, padding="same", name="second")(first)
    model = keras.Model(
        image, layers.Dense(3)(layers.Flatten()(layers.Add(name="sum")([first, second])))
    )
    images = digits()[0][:20]
    ranges = quantize.look(litert.convert_float(model), images)
    assert ranges.low.shape == ranges.high.shape == (20, len(ranges.tensors))
    assert (ranges.low[:, 0] == 0).all()
    assert (ranges.high[:, 0] == 255).all()
    for name in ("first", "second", "sum"):
        expected = keras.Model(image, model.get_layer(name).output).predict(images, verbose=0)
        low, high = expected.min((1, 2, 3)), expected.max((1, 2, 3))
        distances = np.abs(ranges.low - low[:, None]).max(0) + np.abs(
            ranges.high - high[:, None]
        ).max(0)
        assert distances.min() < 1e-4, name
    half = ranges.first(10)
    np.testing.assert_array_equal(half.high, ranges.high[:10])
    assert half.tensors is ranges.tensors


def test_numbers_that_are_not_finite_are_not_quantised(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    model.set_weights([np.full(weight.shape, np.inf) for weight in model.get_weights()])
    with pytest.raises(JobError, match="not finite"):
        _written(INT8, source(model, tmp_path))


def test_what_int16x8_cannot_do_is_said(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(
        image, layers.Dense(2)(layers.Flatten()(layers.Conv2D(2, 3, activation="hard_silu")(image)))
    )
    with pytest.raises(JobError, match="HARD_SWISH"):
        _written(INT16X8, source(model, tmp_path))


def test_floats_and_dynamic_shapes_are_found(model: keras.Model, tmp_path: Path) -> None:
    import tensorflow as tf

    problems = int8_problems(FLOAT32.write(source(model, tmp_path)).path.read_bytes())
    assert any("left in float" in p for p in problems)
    assert any("not uint8" in p for p in problems)
    signature = tf.TensorSpec([None, 8, 8, 3], tf.float32)
    dynamic = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(lambda x: tf.reshape(x, [-1, 192])).get_concrete_function(signature)],
        tf.Module(),
    )
    assert any("no static shape" in p for p in int8_problems(dynamic.convert()))


def test_what_the_converter_refuses_is_explained(tmp_path: Path) -> None:
    import tensorflow as tf

    class Refused(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.raw_ops.Betainc(a=x, b=x, x=x)

    image = keras.Input((4, 4, 3))
    model = keras.Model(image, Refused()(image))
    with pytest.raises(JobError, match="converter refused the model"):
        FLOAT32.write(Source(model, calibration([]), tmp_path))


def test_the_converters_chatter_stays_out_of_the_terminal(
    model: keras.Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for one in FORMATS.values():
        if one.name != "edgetpu":
            one.load(_written(one, source(model, tmp_path)).path)
    assert capfd.readouterr() == ("", "")
