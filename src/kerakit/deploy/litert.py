"""TensorFlow Lite: float32, and full int8 with uint8 pixels in and uint8 scores out."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.format import Predict, Source, Written
from kerakit.errors import JobError
from kerakit.quiet import native_output, no_advice


class Float32:
    """The model as it was trained, for any CPU or GPU that TensorFlow Lite runs on."""

    name, file = "float32", "model_float32.tflite"

    def write(self, source: Source) -> Written:
        """Convert without quantising."""
        return Written(_write(source.folder / self.file, convert_float(source.model)))

    def load(self, path: Path) -> Predict:
        """Load the file with LiteRT's interpreter."""
        return load(path)


class Int8:
    """Weights and activations in int8, raw uint8 pixels in, uint8 scores out, a batch of one: what devices run."""

    name, file = "int8", "model.tflite"

    def write(self, source: Source) -> Written:
        """Quantise with the ranges that the calibration images show."""
        import tensorflow as tf

        count = 0

        def representative() -> Iterator[list[NDArray[np.float32]]]:
            nonlocal count
            for image in source.calibration():
                if count == 0:
                    yield [_with_full_range(image)[None].astype(np.float32)]
                count += 1
                yield [image[None].astype(np.float32)]

        converter = _converter(source.model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        # With one scale for each output, TensorFlow Lite of 2021, which Coral's devices run, gives the same score for every
        # class and reports no error.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        content = _convert(converter)
        _refuse_what_devices_would_misread(content)
        return Written(_write(source.folder / self.file, content), {"calibration_images": count})

    def load(self, path: Path) -> Predict:
        """Load the file with LiteRT's interpreter."""
        return load(path)


FLOAT32, INT8 = Float32(), Int8()


def _with_full_range(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy with one black and one white pixel.

    The converter takes the input's range from what it is shown. Were no pixel 0 or 255 among the calibration images, a byte
    from a camera would no longer stand for itself.
    """
    copy = image.copy()
    copy[0, 0], copy[-1, -1] = 0, 255
    return copy


def load(path: Path) -> Predict:
    """Load a TensorFlow Lite file of batch size 1; quantised scores come back as real numbers."""
    return predictor(interpreter_of(path))


def interpreter_of(path: Path) -> Any:
    """Load a TensorFlow Lite file into LiteRT's interpreter, on one thread. Raises ValueError where it cannot be loaded."""
    from ai_edge_litert.interpreter import Interpreter

    with native_output():
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


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


def convert_float(model: Any) -> bytes:
    """Return ``model`` as a TensorFlow Lite file of floats with a batch of 1."""
    return _convert(_converter(model))


def _converter(model: Any) -> Any:
    """Return a converter for ``model`` with a static batch of 1: the Edge TPU's compiler takes no other."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="image")
    traced = tf.function(lambda image: model(image, training=False)).get_concrete_function(signature)
    # Frozen first: given Keras 3's variables as they are, the converter leaves reads of variables that cannot run.
    with no_advice():
        return tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])


def _convert(converter: Any) -> bytes:
    """Run the converter; its messages are shown only if it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with native_output(said), no_advice():
                content: bytes = converter.convert()
        except Exception as error:
            said.seek(0)
            sys.stderr.write(said.read())
            raise JobError(f"TensorFlow's converter refused the model: {str(error).splitlines()[0]}") from error
    return content


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --------------------------------------------------------------------------------------------------------------- checks


def _refuse_what_devices_would_misread(content: bytes) -> None:
    """Raise JobError unless an int8 file is what it is delivered as."""
    if problems := int8_problems(content):
        raise JobError(f"the int8 model is not what devices need: {'; '.join(problems)}. Choose other layers for it.")


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
