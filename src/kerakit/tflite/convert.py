"""Conversion of Keras models to TensorFlow Lite by TensorFlow's converter."""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from kerakit.console import quiet_logs, redirect_native_output
from kerakit.errors import JobError, first_line
from kerakit.inference import output_names

if TYPE_CHECKING:
    import keras

WeightType = Literal["float32", "float16", "int8"]


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
    return run_converter(converter.convert)


def make_converter(model: keras.Model) -> Any:
    """Return a ``tf.lite.TFLiteConverter`` with batch size 1, which Edge TPU compilers require."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="image")
    names = output_names(model)

    def run(image: Any) -> Any:
        outputs = model(image, training=False)
        # The order of exported files.
        return [outputs[name] for name in names] if isinstance(outputs, dict) else outputs

    traced = tf.function(run).get_concrete_function(signature)
    # Frozen first: of Keras 3's variables, the converter leaves variable reads that cannot run.
    with quiet_logs():
        return tf.lite.TFLiteConverter.from_concrete_functions(
            [convert_variables_to_constants_v2(traced)]
        )


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


def run_converter(convert: Callable[[], bytes]) -> bytes:
    """Run TensorFlow's converter; print its messages only if it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with redirect_native_output(log), quiet_logs():
                return convert()
        except Exception as error:
            if unsupported := sorted(set(_UNSUPPORTED.findall(str(error)))):
                raise JobError(
                    f"TensorFlow Lite lacks operators of the model: {', '.join(unsupported)}. "
                    "Replace the layers that use them."
                ) from error
            log.seek(0)
            sys.stderr.write(log.read())
            raise JobError(
                f"TensorFlow's converter rejected the model: {first_line(error)}"
            ) from error


_UNSUPPORTED = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")
