"""ONNX: for onnxruntime and the many other runtimes that read it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kerakit.console import quiet_logs, redirect_native_output
from kerakit.deploy.formats.base import Source, Written, require
from kerakit.deploy.formats.saved_model import INPUT, OUTPUT, serving
from kerakit.errors import JobError


class Onnx:
    """One file: float32 pixels, 0 to 255, (batch, height, width, 3), as "image" in; float32 "scores" out; any batch."""

    name, file = "onnx", "model.onnx"

    def write(self, source: Source) -> Written:
        """Convert with tf2onnx."""
        require("onnx", "tf2onnx", "onnxruntime")
        import tf2onnx

        path = source.folder / self.file
        function = serving(source.model)
        # It logs where an optimisation was not possible, and goes on without.
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        try:
            with redirect_native_output(), quiet_logs():
                tf2onnx.convert.from_function(
                    function, function.input_signature, output_path=str(path)
                )
        except Exception as error:
            raise JobError(f"tf2onnx refused the model: {str(error).splitlines()[0]}") from error
        return Written(path)

    def load(self, path: Path) -> PredictFn:
        """Load the file with onnxruntime, on one thread."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # Operators that tf2onnx does not know are left as they are.
            raise JobError(
                f"onnxruntime does not run {path.name}: {str(error).splitlines()[0]}"
            ) from error

        def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            (scores,) = session.run([OUTPUT], {INPUT: images.astype(np.float32)})
            return np.asarray(scores)

        return predict


ONNX = Onnx()
