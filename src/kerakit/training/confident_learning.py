"""Confident learning: which labels are probably wrong, by out-of-fold class probabilities.

Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021
(arXiv:1911.00068).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import progress

FOLDS = 5

MIN_IMAGES = FOLDS
"""Fewest images of a class whose labels are checked: one per fold."""

_STRENGTH, _MIN_SUM = 0.003, 3.0
"""``C`` of the logistic regression, and its least product with the number of images: low, so that
the regression does not memorize wrong labels; the decisions page has the measurements."""


@dataclass(frozen=True)
class LabelErrors:
    """Labels that are probably wrong, the most probable first.

    Attributes:
        index: sample indices, int64 (k,).
        suggested: class index that the features suggest for each, int64 (k,).
        confidence: probability of that class, float64 (k,).
        margin: probability of the given label minus that of the suggested one, ascending.
    """

    index: NDArray[np.int64]
    suggested: NDArray[np.int64]
    confidence: NDArray[np.float64]
    margin: NDArray[np.float64]


def out_of_fold_probabilities(
    features: NDArray[np.float32], labels: NDArray[Any], seed: int = 0
) -> NDArray[np.float64]:
    """Return class probabilities, (n, classes), by logistic regressions on the other images.

    The images of each class are divided evenly into five folds; those of a fold are predicted by a
    regression on the other four. The classes are those in ``labels``, ascending.

    Args:
        features: float32 (n, d).
        labels: class indices, (n,), at least ``MIN_IMAGES`` of each class.
        seed: of the folds.

    >>> features = np.repeat(np.float32([[0], [10]]), 5, axis=0)
    >>> out_of_fold_probabilities(features, np.repeat([0, 1], 5)).argmax(axis=1)
    array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    folds = _draw_folds(labels, seed)
    probabilities = np.zeros((len(labels), len(np.unique(labels))))
    with progress("checking labels", FOLDS, "folds") as update:
        for fold in range(FOLDS):
            others, own = folds != fold, folds == fold
            mean, scale = features[others].mean(axis=0), features[others].std(axis=0)
            scale[scale == 0] = 1
            strength = max(_STRENGTH, _MIN_SUM / others.sum())
            regression = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
            scaled = (features[others] - mean) / scale
            with warnings.catch_warnings():
                # A regression that is not at its optimum ranks labels, too.
                warnings.simplefilter("ignore", ConvergenceWarning)
                regression.fit(scaled, labels[others])
            probabilities[own] = regression.predict_proba((features[own] - mean) / scale)
            update(fold + 1)
    return probabilities


def _draw_folds(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Return the fold of each sample; each class is in all folds, evenly."""
    random = np.random.default_rng(seed)
    folds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        folds[members] = (np.arange(len(members)) + random.integers(FOLDS)) % FOLDS
    return folds


def confident_joint(labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return the number of images per given class (row) and estimated true class (column).

    An image counts as one of class j if its probability of j reaches the mean probability of j of
    the images labeled j. Rows are scaled to the number of images with that label, as not every
    image reaches a threshold.

    Args:
        labels: class indices, (n,).
        probabilities: out-of-fold probabilities, (n, classes).

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> one = np.array([0.9, 0.9, 0.1, 0.1, 0.1, 0.1])
    >>> confident_joint(labels, np.column_stack([one, 1 - one]))
    array([[2., 1.],
           [0., 3.]])
    """
    classes = np.arange(probabilities.shape[1])
    thresholds = np.array([probabilities[labels == one, one].mean() for one in classes])
    reaches = probabilities >= thresholds - 1e-6
    estimated = np.where(reaches, probabilities, -1).argmax(axis=1)
    counted = reaches.any(axis=1)
    joint = np.zeros((len(classes), len(classes)))
    np.add.at(joint, (labels[counted], estimated[counted]), 1)
    given = np.bincount(labels, minlength=len(classes))
    return np.asarray(joint * (given / np.maximum(joint.sum(axis=1), 1))[:, None])


def find_label_errors(labels: NDArray[Any], probabilities: NDArray[Any]) -> LabelErrors:
    """Return the labels that are probably wrong, by their normalized margin.

    As many as the confident joint counts off its diagonal: images with the lowest difference of the
    probability of the given label and the highest one of another class, below 0.

    Args:
        labels: class indices, (n,).
        probabilities: out-of-fold probabilities, (n, classes).

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> one = np.array([0.9, 0.9, 0.1, 0.1, 0.1, 0.1])
    >>> find_label_errors(labels, np.column_stack([one, 1 - one])).index
    array([2])
    """
    joint = confident_joint(labels, probabilities)
    count = round(joint.sum() - np.trace(joint))
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)
    margin = probabilities[rows, labels] - others[rows, suggested]
    index = np.argsort(margin, kind="stable")[:count]
    index = index[margin[index] < 0]
    confidence = others[index, suggested[index]]
    return LabelErrors(index, suggested[index], confidence, margin[index])
