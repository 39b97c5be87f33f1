"""Orders of samples."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kerakit.data.order import class_balanced_order, permutation


@given(count=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_every_image_comes_once(count: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(count, seed, epoch)) == list(range(count))


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64


def test_every_index_is_equally_likely() -> None:
    """Each of 10 images at each of 10 indices: 20,000 epochs, within 5 standard deviations."""
    counts = np.zeros((10, 10))
    for epoch in range(20_000):
        counts[np.arange(10), permutation(10, 1, epoch)] += 1
    assert np.abs(counts - 2000).max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_an_order_never_changes() -> None:
    """Else a run that resumes with another NumPy would see some images twice."""
    assert permutation(12, 7, 3).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1, 11, 10]


@given(labels=st.lists(st.sampled_from("abcd"), max_size=60))
def test_every_beginning_of_the_class_balanced_order_is_balanced(labels: list[str]) -> None:
    order = class_balanced_order(labels).tolist()
    assert sorted(order) == list(range(len(labels)))
    totals, seen = Counter(labels), Counter[str]()
    for i in order:
        seen[labels[i]] += 1
        # A class is behind another one only if it has no further samples.
        assert all(
            seen[name] == total or seen[name] >= max(seen.values()) - 1
            for name, total in totals.items()
        )
    for name in totals:
        of_class = [i for i in order if labels[i] == name]
        assert of_class == sorted(of_class)
