"""Every model and every layer: exported, or one failed row with a reason."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from digits import calibration
from kerakit.deploy import FORMAT_NAMES, ExportFolder, FormatResult, export_model
from kerakit.deploy.gate import AccuracyGate
from kerakit.deploy.results import write_report
from kerakit.errors import JobError
from kerakit.tasks import Classification
from projects import PROJECT

TASK = Classification(["a", "b"])
MODELS = sorted(
    path.stem for path in (PROJECT / "models").glob("*.py") if not path.stem.startswith("_")
)
FAST = ("small_cnn",)


def pixels(size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)


def export(
    model: keras.Model, folder: Path, formats: list[str], log: Callable[[str], None] | None = None
) -> dict[str, FormatResult]:
    images = pixels(model.input_shape[1])
    results = export_model(
        model,
        TASK,
        ExportFolder(folder),
        calibration(images),
        [(images, np.arange(8) % 2)],
        formats,
        max_drop=1,
        log=log or (lambda _: None),
    )
    written = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert [(one["format"], one["status"]) for one in written["formats"]] == [
        (one.format, one.status) for one in results
    ]
    assert (folder / "report.html").exists()
    return {result.format: result for result in results}


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    """Release each model before the next one is built."""
    yield
    keras.backend.clear_session()
    gc.collect()


def test_each_model_is_known() -> None:
    assert {*FAST, "efficientnet_lite0", "mobilenet_v3_large"} <= set(MODELS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=() if one in FAST else pytest.mark.slow) for one in MODELS],
)
def test_every_model_exports_in_every_format(
    name: str, template: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """After one step of training."""
    keras.utils.set_random_seed(0)
    model = template(f"models.{name}").construct((32, 32, 3), TASK)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pixels(32), np.arange(8) % 2, verbose=0)
    results = export(model, tmp_path, ["all"])
    failed = {one.format: one.reason for one in results.values() if one.status != "exported"}
    assert set(failed) <= {"edgetpu"}, failed
    for exact in {"h5", "keras", "saved_model", "float32", "onnx", "openvino"} & set(results):
        measurement = results[exact].measurement
        assert measurement is not None
        assert measurement.agreement == 1, exact


SIZES = [
    *(("small_cnn", size, count) for size, count in (((33, 47), 2), ((32, 32), 1_000))),
    *(("mobilenet_v3_large", (33, 47), 2), ("efficientnet_lite0", (33, 47), 1_000)),
    *(("mobilenet_v2", (160, 224), 2), ("resnet50_v2", (33, 47), 2)),
    *(("mobilenet_v3_small", (96, 96), 1_000), ("efficientnet_v2_b0", (33, 47), 2)),
]
"""Model, (height, width) and number of classes."""


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [pytest.param(*one, marks=() if one[0] in FAST else pytest.mark.slow) for one in SIZES],
)
def test_other_input_sizes_and_numbers_of_classes(
    name: str,
    size: tuple[int, int],
    count: int,
    template: Callable[[str], ModuleType],
    tmp_path: Path,
) -> None:
    keras.utils.set_random_seed(0)
    task = Classification([f"class {i}" for i in range(count)])
    model = template(f"models.{name}").construct((*size, 3), task)
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    # Activations of random weights vanish: scales of int16 then overflow in LiteRT.
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, np.arange(4) % count, epochs=3, verbose=0)
    results = export_model(
        model,
        task,
        ExportFolder(tmp_path),
        calibration(images),
        [(images, np.arange(4) % count)],
        ["h5", "float32", "int8", "onnx"] if name in FAST else ["all"],
        max_drop=1,
        log=lambda _: None,
    )
    failed = {one.format: one.reason for one in results if one.status != "exported"}
    assert set(failed) <= {"edgetpu"}, failed


# --------------------------------------------------------------------------- layers of the owner


class Scale(layers.Layer):
    """A layer of the owner, not registered."""

    def call(self, x: Any) -> Any:
        return x / 127.5 - 1


class Fragile(layers.Layer):
    """A layer that cannot be traced for a graph."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        if not tf.executing_eagerly() and x.shape[0] == 1:
            raise LookupError("no kernel\nfor batches of one")
        return x / 127.5 - 1


def classifier(*hidden: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = x = keras.Input((8, 8, 3))
    for layer in hidden:
        x = layer(x)
    return keras.Model(image, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    "layer", [layers.Lambda(lambda x: x / 127.5 - 1, name="own"), Scale(name="own")]
)
def test_a_layer_that_hdf5_cannot_hold_fails_that_format_alone(
    layer: layers.Layer, tmp_path: Path
) -> None:
    lines: list[str] = []
    results = export(classifier(layer, layers.Conv2D(4, 3)), tmp_path, ["h5", "int8"], lines.append)
    assert (results["h5"].status, results["int8"].status) == ("failed", "exported")
    assert "layer 'own'" in results["h5"].reason
    # Before the work, not after it.
    assert lines[0] == f"h5 cannot be exported: {results['h5'].reason}"
    assert not (tmp_path / "model.h5").exists()


@pytest.mark.parametrize("formats", [["edgetpu"], ["h5"], ["h5", "edgetpu"]])
def test_if_nothing_can_be_exported_nothing_is_done(
    formats: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    lines: list[str] = []
    model = classifier(Scale(name="own"))
    with pytest.raises(JobError, match="nothing can be exported: ") as error:
        export(model, tmp_path / "new", formats, lines.append)
    for name in formats:
        assert f"{name}: " in str(error.value)
    assert lines == []
    assert not (tmp_path / "new").exists()


def test_any_exception_is_one_failed_row(tmp_path: Path) -> None:
    model = classifier(Fragile(), layers.Conv2D(4, 3))
    results = export(model, tmp_path, ["saved_model", "float32", "float16", "int8"])
    assert results["saved_model"].status == "exported"
    for name in ("float32", "float16", "int8"):
        assert results[name].status == "failed"
        assert "\n" not in results[name].reason
    assert "no kernel" in results["float32"].reason
    assert "float32, which failed" in results["int8"].reason


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), OSError(28, "full")])
def test_what_concerns_all_formats_ends_the_export(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    model = classifier(layers.Rescaling(1 / 255))
    monkeypatch.setattr(model, "save", full)
    with pytest.raises(type(error)):
        export(model, tmp_path, ["keras", "float32"])
    assert not list(tmp_path.iterdir())


class Overflowing(layers.Layer):
    """A layer whose values overflow in files of batch size 1."""

    def call(self, x: Any) -> Any:
        return x * (math.nan if x.shape[0] == 1 else 1.0)


def test_a_file_with_nan_outputs_fails_and_the_others_are_exported(tmp_path: Path) -> None:
    model = classifier(layers.Rescaling(1 / 255), Overflowing())
    results = export(model, tmp_path, ["saved_model", "float32"])
    assert results["saved_model"].status == "exported"
    assert results["float32"].status == "failed"
    assert "NaN or infinite" in results["float32"].reason


def test_a_report_has_null_for_nan(tmp_path: Path) -> None:
    images = pixels(8)
    gate = AccuracyGate(
        TASK, [(images, np.arange(8) % 2)], lambda x: np.full((len(x), 2), 0.5, np.float32), 1
    )
    row = FormatResult("int8", "model.tflite", "exported", details={"a": [math.inf, 1.5]})
    report = write_report(tmp_path / "report.json", [row], gate, {"b": {"c": math.nan}})
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == report
    assert report["formats"][0]["details"] == {"a": [None, 1.5]}
    assert report["b"] == {"c": None}


def with_numbers() -> keras.Model:
    """Sums and products with numbers, and the hard swish of MobileNetV3."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="normalize")(layers.Conv2D(4, 3)((image - 127.5) / 127.5))
    x = x * (layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0))
    inner = keras.Input((6, 6, 4))
    nested = keras.Model(inner, layers.Conv2D(4, 3)(1 - inner * 0.5), name="nested")
    x = nested(x) * layers.GlobalAveragePooling2D(keepdims=True)(2 * x)
    model = keras.Model(image, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))
    model.get_layer("normalize").set_weights([np.arange(1, 5.0)] * 4)
    return model


def test_sums_and_products_with_numbers_are_the_same_in_hdf5(tmp_path: Path) -> None:
    model = with_numbers()
    results = export(model, tmp_path, ["h5", "int8", "int16x8"])
    assert {row.status for row in results.values()} == {"exported"}, results
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    images = pixels(8).astype(np.float32)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-5)


def test_what_hdf5_cannot_hold_is_one_line(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Flatten()(keras.ops.where(image > 100, image, 0.5))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(x))
    results = export(model, tmp_path, ["h5", "float32"])
    assert results["float32"].status == "exported"
    if results["h5"].status != "exported":
        print(results["h5"].reason)
        assert "\n" not in results["h5"].reason


# ------------------------------------------------------------------------------ layers of Keras


def attention(x: Any) -> Any:
    sequence = layers.Reshape((-1, x.shape[-1]))(x)
    return layers.MultiHeadAttention(2, 4)(sequence, sequence)


LAYERS: dict[str, Any] = {
    "PReLU": layers.PReLU(shared_axes=[1, 2]),
    "LeakyReLU": layers.LeakyReLU(),
    "ELU": layers.ELU(),
    "gelu": layers.Activation("gelu"),
    "silu": layers.Activation("silu"),
    "hard_silu": layers.Activation("hard_silu"),
    "hard_sigmoid": layers.Activation("hard_sigmoid"),
    "mish": layers.Activation("mish"),
    "softplus": layers.Activation("softplus"),
    "tanh": layers.Activation("tanh"),
    "GroupNormalization": layers.GroupNormalization(2),
    "LayerNormalization": layers.LayerNormalization(),
    "UnitNormalization": layers.UnitNormalization(),
    "SpectralNormalization": layers.SpectralNormalization(layers.Conv2D(4, 3)),
    "SeparableConv2D": layers.SeparableConv2D(4, 3),
    "Conv2DTranspose": layers.Conv2DTranspose(4, 3, strides=2),
    "grouped": layers.Conv2D(4, 3, groups=2),
    "dilated": layers.Conv2D(4, 3, dilation_rate=2),
    "bilinear": layers.UpSampling2D(interpolation="bilinear"),
    "bicubic": layers.UpSampling2D(interpolation="bicubic"),
    "Resizing": layers.Resizing(7, 5),
    "MultiHeadAttention": attention,
    "Permute": layers.Permute((3, 1, 2)),
    "Softmax": layers.Softmax(axis=1),
    "Cropping2D": layers.Cropping2D(1),
    "ZeroPadding2D": layers.ZeroPadding2D(),
    "GlobalMaxPooling2D": layers.GlobalMaxPooling2D(),
    "AveragePooling2D": layers.AveragePooling2D(3, 1, padding="same"),
    "Discretization": layers.Discretization([-1.0, 0.0, 1.0]),
    "Normalization": layers.Normalization(mean=[0.0] * 4, variance=[1.0] * 4),
    "augmentation": layers.RandomFlip(),
    "GaussianNoise": layers.GaussianNoise(0.1),
    "Lambda": layers.Lambda(lambda x: x + 1),
    "nested": keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(3, 3)]),
}
"""On features of shape (6, 6, 4)."""
FAST_LAYERS = ("ELU", "PReLU", "MultiHeadAttention", "Discretization", "bicubic")


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=() if one in FAST_LAYERS else pytest.mark.slow) for one in LAYERS],
)
def test_every_layer_of_keras_ends_in_rows(name: str, tmp_path: Path) -> None:
    model = classifier(layers.Rescaling(1 / 127.5, -1), layers.Conv2D(4, 3), LAYERS[name])
    formats = ["h5", "float32", "int8"] if name in FAST_LAYERS else ["all"]
    results = export(model, tmp_path, formats)
    assert set(results) == set(formats if name in FAST_LAYERS else FORMAT_NAMES)
    for result in results.values():
        if result.status != "exported" and result.format != "edgetpu":
            print(f"{name}: {result.format} {result.status}: {result.reason}")
            assert result.reason
            assert "\n" not in result.reason
    if name == "bicubic":
        assert "ResizeBicubic" in results["float32"].reason
    else:
        assert results["float32"].status == "exported"
    if name == "ELU":
        assert "leaves them in float32: ELU (layer 'elu" in results["int8"].reason


def test_grouped_convolutions_and_normalization_are_the_same_in_onnx(tmp_path: Path) -> None:
    import onnxruntime

    images = pixels(8).astype(np.float32)
    normalization = layers.Normalization()
    normalization.adapt(images)
    given = layers.Normalization(mean=[1.0] * 4, variance=[2.0] * 4)
    model = classifier(normalization, layers.Conv2D(4, 3), layers.Conv2D(4, 3, groups=2), given)
    results = export(model, tmp_path, ["onnx"])
    assert results["onnx"].status == "exported", results["onnx"].reason
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (scores,) = session.run(["scores"], {"image": images})
    np.testing.assert_allclose(scores, model(images), atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_layers_in_half_precision_are_exported_in_float32(dtype: str, tmp_path: Path) -> None:
    model = classifier(
        layers.Rescaling(1 / 127.5, -1), layers.Conv2D(4, 3, dtype=dtype, name="half")
    )
    results = export(model, tmp_path, ["float32", "int8", "onnx"])
    assert {one.status for one in results.values()} == {"exported"}, results
    assert model.get_layer("half").compute_dtype == dtype.removeprefix("mixed_")


def test_the_reason_names_the_layer(tmp_path: Path) -> None:
    def cast(x: Any) -> Any:
        return keras.ops.cast(keras.ops.cast(x, "float16") * 2, "float32")

    model = classifier(layers.Lambda(cast, name="doubled"))
    reason = export(model, tmp_path, ["float32"])["float32"].reason
    assert "computes in float16" in reason
    assert "Mul (layer 'doubled')" in reason

    model = classifier(layers.Conv2D(4, 3, dtype="float16", name="half"))
    reason = export(model, tmp_path, ["float32"])["float32"].reason
    assert "Conv2D (layer 'half')" in reason

    model = classifier(layers.Lambda(lambda x: keras.ops.erfinv(x / 300), name="inverse"))
    results = export(model, tmp_path, ["float32", "onnx"])
    for result in results.values():
        assert "Erfinv (layer 'inverse')" in result.reason

    inner = keras.Sequential([keras.Input((6, 6, 4)), layers.LayerNormalization(name="deep")])
    model = classifier(layers.Rescaling(1 / 127.5, -1), layers.Conv2D(4, 3), inner)
    results = export(model, tmp_path, ["float32", "int8", "int16x8"])
    assert results["float32"].status == "exported"
    assert "no int8 version" in results["int8"].reason
    for name in ("int8", "int16x8"):
        assert "(layer 'deep')" in results[name].reason

    model = classifier(Fragile(name="own"))
    assert export(model, tmp_path, ["float32"])["float32"].reason.endswith("(layer 'own')")
