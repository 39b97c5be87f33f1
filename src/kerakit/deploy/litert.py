"""TensorFlow Lite: floats with weights in float32, float16 or int8; full int8 with uint8 pixels in and scores out; int16x8."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy import quantize, runtime
from kerakit.deploy.format import Predict, Source, Written
from kerakit.errors import JobError
from kerakit.quiet import native_output, no_advice

Weights = Literal["float32", "float16", "int8"]


class Floats:
    """The trained model for any CPU or GPU that TensorFlow Lite runs on: float32 pixels, 0 to 255, in; float32 scores out.

    Args:
        name: of the format.
        file: its file name.
        weights: how they are stored; they are what the file's size comes from.
    """

    def __init__(self, name: str, file: str, weights: Weights) -> None:
        self.name, self.file, self._weights = name, file, weights

    def write(self, source: Source) -> Written:
        """Convert."""
        return Written(_write(source.folder / self.file, convert_float(source.model, self._weights)))

    def load(self, path: Path) -> Predict:
        """Load the file with LiteRT's interpreter."""
        return load(path)


FLOAT32 = Floats("float32", "model_float32.tflite", "float32")
FLOAT16 = Floats("float16", "model_float16.tflite", "float16")
DYNAMIC_RANGE = Floats("dynamic_range", "model_dynamic_range.tflite", "int8")


class Int8:
    """Weights and activations in int8, raw uint8 pixels in, uint8 scores out, a batch of one: what devices run."""

    name, file, made_from = "int8", "model.tflite", FLOAT32.file

    def write(self, source: Source) -> Written:
        """Quantise ``model_float32.tflite`` of the same folder with the ranges that the calibration images show."""
        content = (source.folder / self.made_from).read_bytes()
        seen = quantize.look(content, source.calibration.images())
        half = len(seen.low) // 2
        return Written(
            _write(source.folder / self.file, int8(content, seen)),
            {"calibration": source.calibration.facts()},
            half=_write(source.folder / "half.tflite", int8(content, seen.first(half))) if half else None,
        )

    def load(self, path: Path) -> Predict:
        """Load the file with LiteRT's interpreter."""
        return load(path)


class Int16x8:
    """Weights in int8, activations in int16: nearer to the trained model, and slow: LiteRT has only plain kernels for it.

    Float32 pixels, 0 to 255, in; float32 scores out: in int16 neither would be what a camera gives or a program expects.
    """

    name, file, made_from = "int16x8", "model_int16x8.tflite", FLOAT32.file

    def write(self, source: Source) -> Written:
        """Quantise ``model_float32.tflite`` of the same folder with the ranges that the calibration images show."""
        content = (source.folder / self.made_from).read_bytes()
        seen = quantize.look(content, source.calibration.images())
        quantized = _convert(lambda: quantize.to_int16x8(content, seen))
        return Written(_write(source.folder / self.file, quantized), {"calibration": source.calibration.facts()})

    def load(self, path: Path) -> Predict:
        """Load the file with LiteRT's interpreter."""
        return load(path)


INT8, INT16X8 = Int8(), Int16x8()


def load(path: Path) -> Predict:
    """Load a TensorFlow Lite file of batch size 1; quantised scores come back as real numbers.

    Raises:
        JobError: LiteRT does not run it.
    """
    return predictor(runtime.start(path.read_bytes(), path.name))


def predictor(interpreter: Any) -> Predict:
    """Return what runs images through ``interpreter``, one after the other."""
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = out["quantization"]

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = []
        for image in images:
            interpreter.set_tensor(into["index"], image[None].astype(into["dtype"]))
            interpreter.invoke()
            rows.append(interpreter.get_tensor(out["index"])[0])
        raw = np.stack(rows).astype(np.float32)
        return raw if scale == 0 else (raw - zero_point) * np.float32(scale)

    return predict


# ------------------------------------------------------------------------------------------------------------ conversion


def convert_float(model: Any, weights: Weights = "float32") -> bytes:
    """Return ``model`` as a TensorFlow Lite file with a batch of 1 that takes and gives float32, its weights stored as told."""
    import tensorflow as tf

    converter = _converter(model)
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return _convert(converter.convert)


def _converter(model: Any) -> Any:
    """Return a converter for ``model`` with a static batch of 1: the Edge TPU's compiler takes no other."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="image")
    traced = tf.function(lambda image: model(image, training=False)).get_concrete_function(signature)
    # Frozen first: given Keras 3's variables as they are, the converter leaves reads of variables that cannot run.
    with no_advice():
        return tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])


def _convert(convert: Callable[[], bytes]) -> bytes:
    """Run TensorFlow's converter; its messages are shown only if it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with native_output(said), no_advice():
                return convert()
        except Exception as error:
            said.seek(0)
            sys.stderr.write(said.read())
            raise JobError(f"TensorFlow's converter refused the model: {str(error).splitlines()[0]}") from error


def int8(
    content: bytes,
    seen: quantize.Seen,
    ranges: Callable[[quantize.Seen], quantize.Limits] = quantize.without_outliers,
    floats: Sequence[str] = (),
) -> bytes:
    """Return ``content`` in int8, all of it or without the operators whose outputs are named in ``floats``.

    Raises:
        JobError: it is not what devices need.
    """
    quantized = _convert(lambda: quantize.to_int8(content, seen, ranges, floats))
    if floats:
        return quantized
    if problems := int8_problems(quantized):
        raise JobError(f"the int8 model is not what devices need: {'; '.join(problems)}. Choose other layers for it.")
    return quantized


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --------------------------------------------------------------------------------------------------------------- checks


def int8_problems(content: bytes) -> list[str]:
    """Return what keeps a TensorFlow Lite file from being full int8 with raw pixels in; empty if nothing does.

    Checked: uint8 in and out; scale 1 and zero point 0 at the input; static shapes with a batch of 1; no tensor of floats;
    weights of FULLY_CONNECTED with one scale.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    problems = []
    ends = {"input": graph.inputs, "output": graph.outputs}
    for end, indices in ends.items():
        for tensor in (graph.tensors[i] for i in indices):
            if tensor.type != schema.TensorType.UINT8:
                problems.append(f"the {end} {_name(tensor)} is not uint8")
            if tensor.shape[0] != 1:
                problems.append(f"the {end} {_name(tensor)} has the batch size {tensor.shape[0]}")
            if end == "input" and _scales(tensor) != [(1.0, 0)]:
                problems.append(f"the input {_name(tensor)} does not take raw pixels: the model must begin with Rescaling")
    for tensor in graph.tensors:
        if tensor.shapeSignature is not None and -1 in list(tensor.shapeSignature):
            problems.append(f"the tensor {_name(tensor)} has no static shape")
        if tensor.type in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64):
            problems.append(f"the tensor {_name(tensor)} is left in float")
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.FULLY_CONNECTED:
            weights = graph.tensors[operator.inputs[1]]
            if len(_scales(weights)) > 1:
                problems.append(f"the dense weights {_name(weights)} have a scale for each output")
    return problems


def _scales(tensor: Any) -> list[tuple[float, int]]:
    """Return the (scale, zero point) pairs of a tensor; none if it is not quantised."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return []
    return [(float(scale), int(zero)) for scale, zero in zip(quantization.scale, quantization.zeroPoint, strict=True)]


def _name(tensor: Any) -> str:
    return bytes(tensor.name).decode(errors="replace")
