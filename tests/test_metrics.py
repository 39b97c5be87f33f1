"""Metrics: known values and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import metrics


def test_calibration_error_of_known_confidences() -> None:
    confidence = np.array([0.9, 0.9, 0.6, 0.6], np.float32)
    correct = np.array([True, True, True, False])
    # Bins of 0.9 and 0.6: |2 - 1.8| and |1 - 1.2|, over four images.
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(0.1, abs=1e-6)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.integers(0, 2**40 - 1))
def test_calibration_error_lies_between_0_and_1(values: list[float], bits: int) -> None:
    correct = np.array([bool(bits >> i & 1) for i in range(len(values))])
    error = metrics.expected_calibration_error(np.array(values), correct)
    gap = abs(float(np.mean(correct)) - float(np.mean(values)))
    assert gap - 1e-6 <= error <= 1


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_interval_contains_the_fraction_and_shrinks_with_more_images(
    count: int, fraction: float
) -> None:
    low, high = metrics.wilson_interval(fraction, count)
    assert 0 <= low <= fraction + 1e-9
    assert fraction - 1e-9 <= high <= 1
    narrow = metrics.wilson_interval(fraction, 4 * count)
    assert narrow[1] - narrow[0] < high - low


def test_the_interval_of_a_known_case() -> None:
    """9 of 10: Brown, Cai and DasGupta (2001) state 0.596 to 0.982."""
    low, high = metrics.wilson_interval(0.9, 10)
    assert math.isclose(low, 0.596, abs_tol=1e-3)
    assert math.isclose(high, 0.982, abs_tol=1e-3)


def test_the_worst_class_has_images() -> None:
    matrix = np.array([[0, 0, 0], [1, 3, 0], [0, 0, 2]])
    assert metrics.worst_class(matrix) == (1, 0.75)


@given(st.integers(1, 6), st.randoms())
def test_most_confused_cells_are_the_largest_off_the_diagonal(size: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    matrix = rng.integers(0, 4, (size, size))
    found = metrics.most_confused(matrix, 4)
    off = matrix[~np.eye(size, dtype=bool)]
    assert [count for _, _, count in found] == sorted(off[off > 0], reverse=True)[:4]
    assert all(row != column and matrix[row, column] == count for row, column, count in found)
