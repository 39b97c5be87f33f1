"""The split is a pure function of (seed, key)."""

from hypothesis import given
from hypothesis import strategies as st

from kerakit.data.split import MODES, assign

keys = st.text(min_size=1)
seeds = st.integers(0, 2**32 - 1)


@given(key=keys, seed=seeds, ratio=st.floats(0.01, 0.99))
def test_it_depends_on_nothing_else(key: str, seed: int, ratio: float) -> None:
    assert assign(key, seed, ratio) == assign(key, seed, ratio)
    assert assign(key, seed, ratio) in MODES


@given(key=keys, seed=seeds, ratios=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).map(sorted))
def test_more_training_takes_nothing_away_from_training(key: str, seed: int, ratios: list[float]) -> None:
    if assign(key, seed, ratios[0]) == "train":
        assert assign(key, seed, ratios[1]) == "train"


def test_the_shares_are_what_was_asked_for() -> None:
    drawn = [assign(f"class/{i}.jpg", 0, 0.8) for i in range(20_000)]
    # Four standard deviations of a binomial draw.
    assert abs(drawn.count("train") - 16_000) < 4 * (20_000 * 0.8 * 0.2) ** 0.5
    assert abs(drawn.count("val") - 2_000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5


def test_names_that_are_no_unicode_are_split_too() -> None:
    assert assign("caf\udce9.jpg", 0, 0.8) in MODES
