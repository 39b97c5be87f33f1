"""Print as JSON which batches a real ``fit`` consumes; run by test_backends with KERAS_BACKEND set.

The model has one weight per color channel, w. With the loss mean(target * w . mean color), a step
of gradient descent moves w by the mean of (target * mean color) over the batch: each step shows
which images and targets it was given.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import numpy as np

from kerakit.data import BatchGenerator, DataReader


def main(folder: str, epochs: int) -> None:
    """Print the change of the weights in each step."""
    reader = DataReader(folder)
    reader.target = lambda i: np.float32(i + 1)  # type: ignore[method-assign,assignment,return-value]
    train, val = (
        BatchGenerator(reader, "train", 8, (20, 16), seed=7),
        BatchGenerator(reader, "val", 8, (20, 16)),
    )
    image = keras.Input((16, 20, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(x))

    def loss(targets: Any, outputs: Any) -> Any:
        # Keras gives targets a last axis of one.
        return keras.ops.mean(keras.ops.ravel(targets) * keras.ops.ravel(outputs))

    model.compile(keras.optimizers.SGD(1.0), loss)
    seen = [np.zeros((3, 1), np.float32)]

    class Trace(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
            if hasattr(model, "jax_state_sync"):
                model.jax_state_sync()
            seen.append(np.array(model.get_weights()[0]))

    callbacks = [train.epoch_callback(), Trace()]
    model.fit(
        train, validation_data=val, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    print(
        json.dumps(
            {"backend": keras.backend.backend(), "steps": np.diff(seen, axis=0)[..., 0].tolist()}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
