"""A small convolutional network for small images, trained from scratch in a minute on a CPU."""

from typing import Any


def construct(input_shape: tuple[int, int, int], num_classes: int) -> Any:
    """Return a ``keras.Model`` with 0.3 million weights.

    Args:
        input_shape: (height, width, 3).
        num_classes: how many probabilities to give.
    """
    import keras
    from keras import layers

    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="normalise")(image)
    for filters in (32, 64, 128):
        for stride in (1, 2):
            x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.ReLU(6)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(num_classes, activation="softmax", name="probabilities", dtype="float32")(x)
    return keras.Model(image, x, name="small_cnn")
