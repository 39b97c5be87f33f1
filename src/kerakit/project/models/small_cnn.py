"""A small convolutional network for small images: 0.3 million weights, trained from scratch."""

import keras
from keras import layers

from kerakit.tasks import Task


def construct(input_shape: tuple[int, int, int], task: Task) -> keras.Model:
    """Return the model."""
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="normalize")(image)
    for filters in (32, 64, 128):
        for stride in (1, 2):
            x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.ReLU(6)(x)
    return keras.Model(image, task.head(x), name="small_cnn")
