"""The split is a pure function of (seed, key)."""

from hypothesis import given
from hypothesis import strategies as st

from kerakit.data import split
from kerakit.data.split import MODES

keys = st.binary(min_size=1)
seeds = st.integers(0, 2**32 - 1)


def assign(key: bytes, seed: int, ratio: float) -> str:
    return str(MODES[split.assign([key], seed, ratio)[0]])


@given(
    key=keys, seed=seeds, ratios=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).map(sorted)
)
def test_more_training_takes_nothing_away_from_training(
    key: bytes, seed: int, ratios: list[float]
) -> None:
    if assign(key, seed, ratios[0]) == "train":
        assert assign(key, seed, ratios[1]) == "train"


def test_the_fractions_are_those_requested() -> None:
    drawn = [assign(b"class/%d.jpg" % i, 0, 0.8) for i in range(20_000)]
    # Four standard deviations of a binomial draw.
    assert abs(drawn.count("train") - 16_000) < 4 * (20_000 * 0.8 * 0.2) ** 0.5
    assert abs(drawn.count("val") - 2_000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5


@given(names=st.lists(keys, max_size=20), seed=seeds)
def test_an_image_does_not_depend_on_other_images(names: list[bytes], seed: int) -> None:
    together = split.assign(names, seed, 0.6)
    assert [MODES[i] for i in together] == [assign(name, seed, 0.6) for name in names]


def test_the_split_of_a_name_never_changes() -> None:
    """Else a model trained yesterday would be tested on what it was trained on."""
    names = [b"hat/%d.jpg" % i for i in range(20)]
    assert (
        "".join(MODES[i][:2] for i in split.assign(names, 0, 0.6))
        == "trvatetrvatrtrtetrtrtrtrtrtrtrtrtrtrtetr"
    )


def test_seeds_differ() -> None:
    names = [b"hat/%d.jpg" % i for i in range(50)]
    assert len({split.assign(names, seed, 0.6).tobytes() for seed in range(10)}) == 10
