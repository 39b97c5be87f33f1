"""OpenVINO: for Intel's processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.formats.base import Source, Written, require
from kerakit.deploy.formats.saved_model import INPUT, OUTPUT, SAVED_MODEL
from kerakit.errors import JobError

MODEL = "model.xml"


class OpenVino:
    """A folder with model.xml and model.bin: float32 pixels, 0 to 255, as "image" in; float32 "scores" out; any batch.

    Weights are float32. On processors that have it, OpenVINO computes in bfloat16 unless it is told
    ``INFERENCE_PRECISION_HINT: f32``, as it is here: what is measured is the file.
    """

    name, file, made_from = "openvino", "openvino", SAVED_MODEL.file

    def write(self, source: Source) -> Written:
        """Convert the SavedModel of the same folder."""
        require("openvino", "openvino")
        import openvino

        path = source.folder / self.file
        path.mkdir()
        try:
            # Not convert_model(): that one comes with telemetry.
            model = openvino.Core().read_model(source.folder / self.made_from)
            openvino.save_model(model, path / MODEL, compress_to_fp16=False)
        except RuntimeError as error:
            raise JobError(f"OpenVINO refused the model: {_reason(error)}") from error
        return Written(path)

    def load(self, path: Path) -> PredictFn:
        """Load the folder with OpenVINO's CPU plug-in, on one thread."""
        import openvino

        exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        try:
            compiled = openvino.Core().compile_model(path / MODEL, "CPU", exact)
        except RuntimeError as error:
            raise JobError(f"OpenVINO does not run {path.name}: {_reason(error)}") from error

        def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.asarray(compiled({INPUT: images.astype(np.float32)})[OUTPUT])

        return predict


OPENVINO = OpenVino()


def _reason(error: RuntimeError) -> str:
    """Return the lines of its summary, or else the last line, without the places in its source."""
    lines = str(error).strip().splitlines()
    return " ".join(
        [line.removeprefix("-- ") for line in lines if line.startswith("-- ")] or lines[-1:]
    )
