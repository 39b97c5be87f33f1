"""Inference models of the part of a model above frozen layers, which the metrics per epoch use."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit import nested
from kerakit.inference import keras_predict_fn
from kerakit.tasks import Classification, Keypoints, MultiTask, Task
from kerakit.training import split_at


def several() -> Task:
    return MultiTask({"points": Keypoints(["nose", "tail"]), "kind": Classification(["a", "b"])})


@pytest.mark.parametrize("make", [lambda: Keypoints(["nose", "tail"]), several])
def test_the_part_above_frozen_layers_has_the_outputs_of_the_whole(make: Any) -> None:
    task = make()
    x = image = keras.Input((64, 64, 3))
    for filters in (4, 6, 8, 10, 12):
        x = layers.Conv2D(filters, 3, 2, "same", activation="relu6")(x)
    model = keras.Model(image, task.head(x))
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    expected = keras_predict_fn(task.inference_model(model))(pixels)
    lower, upper = split_at(model)
    features = lower(pixels)
    found = keras_predict_fn(task.inference_model(upper))(features)
    assert found.keys() == expected.keys()
    for one, other in zip(nested.arrays(found), nested.arrays(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
