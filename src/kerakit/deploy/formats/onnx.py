"""ONNX, for onnxruntime and other runtimes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import quiet_logs, redirect_native_output
from kerakit.deploy.formats.base import ExportSource, WrittenFormat, require_packages
from kerakit.deploy.formats.saved_model import INPUT, OUTPUT
from kerakit.errors import JobError, first_line
from kerakit.inference import PredictFn, name_outputs, output_names
from kerakit.tflite.convert import freeze
from kerakit.tflite.layers import describe_operators

if TYPE_CHECKING:
    import keras


class Onnx:
    """One file; inputs and outputs as in ``serving_function``."""

    name, file = "onnx", "model.onnx"

    def check(self, _: ExportSource) -> None:
        """Raise FormatUnavailable without the packages."""
        require_packages("onnx", "tf2onnx", "onnxruntime")

    def write(self, source: ExportSource) -> WrittenFormat:
        """Convert with tf2onnx.

        Raises:
            JobError: tf2onnx lacks an operator of the model.
        """
        import onnx
        import tf2onnx

        path = source.folder / self.file
        frozen = _freeze(source.model)
        # It logs an error for each optimization that is impossible, and converts all the same.
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        (image,) = frozen.inputs
        outputs = {
            tensor.name: name
            for tensor, name in zip(
                frozen.outputs, output_names(source.model) or (OUTPUT,), strict=True
            )
        }
        try:
            with redirect_native_output(), quiet_logs():
                converted, _ = tf2onnx.convert.from_graph_def(
                    frozen.graph.as_graph_def(add_shapes=True),
                    input_names=[image.name],
                    output_names=list(outputs),
                    tensors_to_rename={image.name: INPUT, **outputs},
                )
        except Exception as error:
            raise JobError(f"tf2onnx rejected the model: {first_line(error)}") from error
        # tf2onnx writes operators that it doesn't know as they are.
        if unknown := {one.op_type for one in converted.graph.node if not one.domain} - _known():
            nodes = [(one.op, one.name) for one in frozen.graph.as_graph_def().node]
            operators = [*((kind, "") for kind in unknown), *nodes]
            described = describe_operators(
                [one for one in operators if one[0] in unknown], source.model
            )
            raise JobError(
                f"tf2onnx cannot convert operators of the model: {described}. Replace the layers "
                "that use them."
            )
        onnx.save(converted, path)
        return WrittenFormat(path)

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn:
        """Load the file with onnxruntime, on one thread."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise JobError(f"onnxruntime cannot run {path.name}: {first_line(error)}") from error

        def predict(images: NDArray[np.uint8]) -> Any:
            outputs = session.run(list(names or (OUTPUT,)), {INPUT: images.astype(np.float32)})
            return name_outputs(outputs, names)

        return predict


def _freeze(model: keras.Model) -> Any:
    """Return the model as a concrete function without variables and calls of functions."""
    import tensorflow as tf

    options = {"lower_control_flow": False, "aggressive_inlining": True}
    frozen = freeze(model, None, **options)
    if not any("PartitionedCall" in node.op for node in frozen.graph.as_graph_def().node):
        return frozen
    # Keras has XLA compile grouped convolutions, and such functions are not inlined.
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return freeze(model, None, **options)
    finally:
        tf.config.run_functions_eagerly(before)


def _known() -> set[str]:
    import onnx

    return {one.name for one in onnx.defs.get_all_schemas() if not one.domain}


ONNX = Onnx()
