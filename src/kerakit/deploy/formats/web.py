"""A page for browsers that runs the int8 model; float32 if there is no int8 file."""

from __future__ import annotations

from pathlib import Path

from kerakit.deploy.formats.base import TASK, ExportSource, WrittenFormat
from kerakit.deploy.formats.tflite import FLOAT32, INT8
from kerakit.deploy.web.demo import FILE, write_demo
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import JobError
from kerakit.files import read_json
from kerakit.inference import PredictFn

MODELS = (INT8.name, FLOAT32.name)
"""Formats whose file the page runs, the preferred one first."""


class WebPage:
    """One HTML file with the model, its runtime and held-out images, for use without network.

    Its model is that of another format, so it is not evaluated again; the page compares its outputs
    with those of LiteRT whenever it is opened.
    """

    name, file = "web", FILE
    untested = "checks itself in the browser"

    def write(self, source: ExportSource) -> WrittenFormat:
        """Write the page."""
        files = (source.folder / one.file for one in (INT8, FLOAT32))
        model = next((path for path in files if path.is_file()), None)
        if model is None:
            raise JobError(f"it shows {' or '.join(MODELS)}, which failed")
        path = source.folder / self.file
        task = read_json(source.folder / TASK, dict)
        preprocessing = Preprocessing.read(source.folder / PREPROCESSING)
        write_demo(path, model, task, preprocessing, source.samples)
        return WrittenFormat(path, {"model": model.name})

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn | None:
        """Return None: it needs a browser."""


WEB = WebPage()
