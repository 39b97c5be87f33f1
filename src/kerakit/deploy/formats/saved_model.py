"""TensorFlow's SavedModel, for TensorFlow Serving and as the source of other converters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import quiet_logs
from kerakit.deploy.formats.base import ExportSource, WrittenFormat
from kerakit.files import check_disk_space
from kerakit.inference import PredictFn, name_outputs, output_names
from kerakit.weights import estimate_weights_size

if TYPE_CHECKING:
    import keras

INPUT, OUTPUT = "image", "scores"


def serving_function(model: keras.Model) -> Any:
    """Return ``model`` as a ``tf.function``.

    Its input "image" is float32 (batch, height, width, 3), 0 to 255; its output is a dictionary of
    float32 (batch, ...): {"scores": ...}, or the outputs by their names.
    """
    import tensorflow as tf

    names = output_names(model) or (OUTPUT,)

    def serve(image: Any) -> dict[str, Any]:
        outputs = model(image, training=False)
        if not isinstance(outputs, dict):
            several = outputs if isinstance(outputs, list | tuple) else [outputs]
            outputs = dict(zip(names, several, strict=True))
        return {name: outputs[name] for name in names}

    signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name=INPUT)
    return tf.function(serve, input_signature=[signature], autograph=False)


class SavedModel:
    """A folder with graph and variables; inputs and outputs as in ``serving_function``.

    Not written by ``keras.Model.export``, which stores every weight twice (Keras 3.15).
    """

    name, file = "saved_model", "saved_model"

    def write(self, source: ExportSource) -> WrittenFormat:
        """Save the signature "serving_default" of ``serving_function``."""
        import tensorflow as tf

        path = source.folder / self.file
        check_disk_space(source.folder, estimate_weights_size(source.model))
        module = tf.Module()
        module.serve = serving_function(source.model)
        module.weights = [variable.value for variable in source.model.variables]
        with quiet_logs():
            tf.saved_model.save(module, str(path), signatures=module.serve)
        return WrittenFormat(path)

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn:
        """Load the folder with TensorFlow."""
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))

        def predict(images: NDArray[np.uint8]) -> Any:
            # Through `loaded`: its variables are freed with it, even while the signature lives.
            serve = loaded.signatures["serving_default"]
            outputs = serve(**{INPUT: images.astype(np.float32)})
            return name_outputs([outputs[name] for name in names or (OUTPUT,)], names)

        return predict


SAVED_MODEL = SavedModel()
