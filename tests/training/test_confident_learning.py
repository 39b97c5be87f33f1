"""Labels that are probably wrong: the algorithm on features of real images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from kerakit.training.confident_learning import (
    FOLDS,
    MIN_IMAGES,
    confident_joint,
    find_label_errors,
    out_of_fold_probabilities,
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_most_flipped_labels_are_among_the_first(seed: int) -> None:
    """5 % of the labels of clean digits are flipped: 70 % of these are in the first 8 %."""
    images, clean = load_digits(return_X_y=True)
    random, count = np.random.default_rng(seed), len(clean)
    flipped = random.choice(count, round(0.05 * count), replace=False)
    labels = clean.copy()
    labels[flipped] = (labels[flipped] + random.integers(1, 10, len(flipped))) % 10
    found = find_label_errors(labels, out_of_fold_probabilities(images.astype(np.float32), labels))
    first = found.index[: round(0.08 * count)]
    assert np.isin(flipped, first).mean() >= 0.85
    assert len(found.index) < 0.1 * count
    is_flipped = np.isin(found.index, flipped)
    assert (found.suggested == clean[found.index])[is_flipped].mean() > 0.9
    assert (np.diff(found.margin) >= 0).all()


def test_probabilities_are_out_of_fold() -> None:
    """Features that identify each image, and say nothing about others, predict no label."""
    labels = np.arange(40) % 2
    probabilities = out_of_fold_probabilities(np.eye(40, dtype=np.float32), labels)
    assert np.abs(probabilities - 0.5).max() < 0.1


@given(st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_what_is_found_is_valid(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), MIN_IMAGES + seed % 3))
    probabilities = random.dirichlet(np.ones(classes), len(labels))
    joint = confident_joint(labels, probabilities)
    # Rows of classes that reach a threshold are their numbers of images.
    counts = np.bincount(labels)
    assert all(
        np.isclose(row.sum(), n) or not row.any() for row, n in zip(joint, counts, strict=True)
    )
    found = find_label_errors(labels, probabilities)
    assert len(set(found.index.tolist())) == len(found.index) <= round(joint.sum())
    assert (found.suggested != labels[found.index]).all()
    assert (found.margin < 0).all()


def test_each_class_is_in_every_fold() -> None:
    """With the fewest images of a class that are checked, a regression knows all classes."""
    labels = np.repeat([0, 1, 2], [MIN_IMAGES, 30, MIN_IMAGES])
    features = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
    assert FOLDS == MIN_IMAGES
    probabilities = out_of_fold_probabilities(features, labels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities > 0).all()
