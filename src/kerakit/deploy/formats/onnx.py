"""ONNX, for onnxruntime and other runtimes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import quiet_logs, redirect_native_output
from kerakit.deploy.formats.base import ExportSource, WrittenFormat, require_packages
from kerakit.deploy.formats.saved_model import INPUT, OUTPUT, serving_function
from kerakit.errors import JobError, first_line
from kerakit.inference import PredictFn, name_outputs


class Onnx:
    """One file; inputs and outputs as in ``serving_function``."""

    name, file = "onnx", "model.onnx"

    def check(self, _: ExportSource) -> None:
        """Raise FormatUnavailable without the packages."""
        require_packages("onnx", "tf2onnx", "onnxruntime")

    def write(self, source: ExportSource) -> WrittenFormat:
        """Convert with tf2onnx."""
        import tf2onnx

        path = source.folder / self.file
        function = serving_function(source.model)
        # It logs an error for each optimization that is impossible, and converts all the same.
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        try:
            with redirect_native_output(), quiet_logs():
                tf2onnx.convert.from_function(
                    function, function.input_signature, output_path=str(path)
                )
        except Exception as error:
            raise JobError(f"tf2onnx rejected the model: {first_line(error)}") from error
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
            # tf2onnx writes operators that it doesn't know as they are.
            if missing := re.search(r"No Op registered for (\w+)", str(error)):
                raise JobError(
                    f"tf2onnx cannot convert the operator {missing[1]} of the model. Replace the "
                    "layers that use it."
                ) from error
            raise JobError(f"onnxruntime cannot run {path.name}: {first_line(error)}") from error

        def predict(images: NDArray[np.uint8]) -> Any:
            outputs = session.run(list(names or (OUTPUT,)), {INPUT: images.astype(np.float32)})
            return name_outputs(outputs, names)

        return predict


ONNX = Onnx()
