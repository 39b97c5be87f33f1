"""TensorFlow's SavedModel: what TensorFlow Serving and many converters read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import quiet_logs
from kerakit.deploy.formats.base import Source, Written
from kerakit.files import check_disk_space
from kerakit.run import estimate_weights_size

INPUT, OUTPUT = "image", "scores"


def serving(model: Any) -> Any:
    """Return ``model`` as a ``tf.function`` from "image", float32 (batch, height, width, 3), 0 to 255, to {"scores": ...}."""
    import tensorflow as tf

    signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name=INPUT)
    return tf.function(
        lambda image: {OUTPUT: model(image, training=False)},
        input_signature=[signature],
        autograph=False,
    )


class SavedModel:
    """A folder with the graph and its variables: float32 pixels, 0 to 255, in; float32 scores out; any batch.

    Not written by ``keras.Model.export``, which stores every weight twice (Keras 3.15).
    """

    name, file = "saved_model", "saved_model"

    def write(self, source: Source) -> Written:
        """Save the signature "serving_default", from "image" to "scores"."""
        import tensorflow as tf

        path = source.folder / self.file
        check_disk_space(source.folder, estimate_weights_size(source.model))
        module = tf.Module()
        module.serve = serving(source.model)
        module.weights = [variable.value for variable in source.model.variables]
        with quiet_logs():
            tf.saved_model.save(module, str(path), signatures=module.serve)
        return Written(path)

    def load(self, path: Path) -> PredictFn:
        """Load the folder with TensorFlow."""
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))

        def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            # Not the signature alone: the variables live as long as what was loaded.
            scores = loaded.signatures["serving_default"](**{INPUT: images.astype(np.float32)})[
                OUTPUT
            ]
            return np.asarray(scores)

        return predict


SAVED_MODEL = SavedModel()
