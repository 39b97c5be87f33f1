"""A short fit in one of several processes; prints what it did as JSON.

It joins the others by Keras's variables. Arguments: folder of photos, folder for files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from kerakit import Config, Run, training


class Flags(Config):
    """Flags that ``join_processes`` reads."""

    save_to: str
    resume: str = "auto"
    track: tuple[str, ...] | None = None


args = training.join_processes(Flags(save_to=sys.argv[2]))
import keras  # noqa: E402

from kerakit import world  # noqa: E402
from kerakit.data import BatchGenerator, DataReader  # noqa: E402
from kerakit.tasks import Classification  # noqa: E402

training.use_all_devices()
keras.utils.set_random_seed(1)
reader = DataReader(Path(sys.argv[1]))
task = Classification(reader.class_names)
train, val = (
    BatchGenerator(reader, mode, 8, (16, 12), seed=7, task=task, threads=1)
    for mode in ("train", "val")
)
image = keras.Input((12, 16, 3))
x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
x = keras.layers.BatchNormalization()(keras.layers.Dense(8)(x))
model = keras.Model(image, keras.layers.Dense(2, "softmax")(keras.layers.Dropout(0.3)(x)))
model.compile(keras.optimizers.AdamW(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])


class Losses(keras.callbacks.Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Record the loss, a mean over the epoch."""
        self.values.append(float((logs or {})["loss"]))


class Scores(Classification):
    """A task whose metrics Keras does not compute."""

    monitor = "val_other"


losses = Losses()
metrics = training.TaskMetrics(Scores(reader.class_names), val)
history = model.fit(
    train,
    validation_data=val,
    epochs=2,
    verbose=0,
    shuffle=False,
    callbacks=[train.epoch_callback(), training.FailOnNaN(train), metrics, losses],
).history
Run(args.save_to).create().write_history([{"epoch": 1}])
train.close()
val.close()
weights = b"".join(array.tobytes() for array in model.get_weights())
world.current.any(True)  # the others have written
print(
    json.dumps(
        {
            "devices": world.current.devices,
            "save_to": str(args.save_to),
            "sizes": [len(train.index), len(val.index)],
            "losses": losses.values,
            "history": history,
            "weights": hashlib.sha256(weights).hexdigest(),
        }
    ),
    file=sys.__stdout__,
    flush=True,
)
