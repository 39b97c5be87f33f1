"""OpenVINO, for Intel's processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.formats.base import ExportSource, WrittenFormat, require_packages
from kerakit.deploy.formats.saved_model import INPUT, OUTPUT, SAVED_MODEL
from kerakit.errors import JobError
from kerakit.inference import PredictFn, name_outputs

MODEL = "model.xml"


class OpenVino:
    """A folder with model.xml and model.bin; inputs and outputs as in ``serving_function``.

    Weights are float32. OpenVINO computes in bfloat16 on processors that support it, unless
    ``INFERENCE_PRECISION_HINT`` is f32, as it is here, so that the file itself is evaluated.
    """

    name, file, requires = "openvino", "openvino", SAVED_MODEL.file

    def check(self, _: ExportSource) -> None:
        """Raise FormatUnavailable without the package."""
        require_packages("openvino", "openvino")

    def write(self, source: ExportSource) -> WrittenFormat:
        """Convert the SavedModel of the same folder."""
        import openvino

        path = source.folder / self.file
        path.mkdir()
        try:
            # Not convert_model(), which comes with telemetry.
            model = openvino.Core().read_model(source.folder / self.requires)
            openvino.save_model(model, path / MODEL, compress_to_fp16=False)
        except RuntimeError as error:
            raise JobError(f"OpenVINO rejected the model: {_summarize(error)}") from error
        return WrittenFormat(path)

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn:
        """Load the folder with OpenVINO's CPU plug-in, on one thread."""
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        try:
            compiled = openvino.Core().compile_model(path / MODEL, "CPU", options)
        except RuntimeError as error:
            raise JobError(f"OpenVINO cannot run {path.name}: {_summarize(error)}") from error

        def predict(images: NDArray[np.uint8]) -> Any:
            outputs = compiled({INPUT: images.astype(np.float32)})
            return name_outputs([outputs[name] for name in names or (OUTPUT,)], names)

        return predict


OPENVINO = OpenVino()


def _summarize(error: RuntimeError) -> str:
    """Return the lines of its summary, or else its last line, without positions in source code."""
    lines = str(error).strip().splitlines()
    summary = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    return " ".join(summary or lines[-1:])
