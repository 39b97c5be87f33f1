"""Conversion of Keras models to TensorFlow Lite by TensorFlow's converter."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from kerakit.architecture import flatten_layers
from kerakit.console import quiet_logs, redirect_native_output
from kerakit.errors import JobError, UserError, first_line
from kerakit.inference import output_names
from kerakit.tflite.layers import describe_operators

if TYPE_CHECKING:
    import keras

WeightType = Literal["float32", "float16", "int8"]


def check_backend(purpose: str, alternative: str = "before Keras is imported") -> None:
    """Raise UserError unless Keras runs on TensorFlow, which the converter needs.

    Args:
        purpose: what needs the converter, for the message.
        alternative: end of the advice to set the backend.
    """
    import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise UserError(
            f"{purpose} needs the TensorFlow backend, not {backend}. Set "
            f"KERAS_BACKEND=tensorflow {alternative}."
        )


def convert_float(model: keras.Model, weights: WeightType = "float32") -> bytes:
    """Convert ``model`` to a TensorFlow Lite file with batch size 1 and float32 input and output.

    Args:
        model: a built model with one input (batch, height, width, 3).
        weights: type in which weights are stored.

    Raises:
        JobError: the converter rejected the model.
    """
    import tensorflow as tf

    converter = make_converter(model)
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return run_converter(converter.convert, model)


def make_converter(model: keras.Model) -> Any:
    """Return a ``tf.lite.TFLiteConverter`` with batch size 1, which Edge TPU compilers require."""
    import tensorflow as tf

    # Frozen first: of Keras 3's variables, the converter leaves variable reads that cannot run.
    with quiet_logs():
        return tf.lite.TFLiteConverter.from_concrete_functions([freeze(model, batch_size=1)])


def freeze(model: keras.Model, batch_size: int | None, **options: bool) -> Any:
    """Return a model as a concrete function without variables, which computes in float32.

    Layers with mixed precision compute in float32, too: converters lack most operators of float16.

    Args:
        model: a built model with one input (batch, height, width, channels).
        batch_size: None: any.
        options: other arguments of TensorFlow's ``convert_variables_to_constants_v2``.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec([batch_size, *model.input_shape[1:]], tf.float32, name="image")
    names = output_names(model)

    def run(image: Any) -> Any:
        outputs = model(image, training=False)
        # The order of exported files.
        return [outputs[name] for name in names] if isinstance(outputs, dict) else outputs

    with _in_float32(model):
        traced = tf.function(run).get_concrete_function(signature)
    with quiet_logs():
        return convert_variables_to_constants_v2(traced, **options)


@contextlib.contextmanager
def _in_float32(model: keras.Model) -> Iterator[None]:
    """Let layers of mixed precision compute in float32."""
    layers = [
        one
        for one in (model, *flatten_layers(model))
        if getattr(one, "variable_dtype", "") == "float32"
    ]
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer.dtype_policy = policy


def make_int8_converter(model: keras.Model, images: Sequence[NDArray[Any]]) -> Any:
    """Return a converter to int8 with uint8 input and output, with TensorFlow's own calibration.

    The export quantizes by itself (``kerakit.deploy.quantization``); this is for its operators.

    Args:
        model: a built model with one input (batch, height, width, channels).
        images: calibration images, (height, width, channels) each.
    """
    import tensorflow as tf

    converter = make_converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([each[None].astype("float32")] for each in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    # As ``quantize_int8`` does, for the TensorFlow Lite of Coral devices.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converter


def run_converter(convert: Callable[[], bytes], model: keras.Model | None = None) -> bytes:
    """Run TensorFlow's converter; print its messages only if it fails.

    Args:
        convert: calls the converter.
        model: its layers are named in errors.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with redirect_native_output(log), quiet_logs():
                return convert()
        except Exception as error:
            if unsupported := set(_UNSUPPORTED.findall(str(error))):
                raise JobError(_describe_unsupported(unsupported, str(error), model)) from error
            log.seek(0)
            sys.stderr.write(log.read())
            raise JobError(
                f"TensorFlow's converter rejected the model: {first_line(error)}"
            ) from error


_UNSUPPORTED = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")
_IN_HALF = re.compile(r"\btf\.(\w+)\([^)]*x?b?f16>")


def _describe_unsupported(kinds: set[str], message: str, model: keras.Model | None) -> str:
    import tensorflow as tf

    half = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum)
    in_half = kinds <= set(_IN_HALF.findall(message))
    operators = [(kind, "") for kind in kinds]
    if model is not None:
        operators += [
            (node.op, node.name)
            for node in freeze(model, batch_size=1).graph.as_graph_def().node
            if node.op in kinds and (not in_half or node.attr["T"].type in half)
        ]
    described = describe_operators(operators, model)
    if in_half:
        return (
            f"the model computes in float16 or bfloat16, in which TensorFlow Lite lacks operators: "
            f"{described}. Compute them in float32."
        )
    return (
        f"TensorFlow Lite lacks operators of the model: {described}. Replace the layers that use "
        "them."
    )
