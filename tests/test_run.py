"""The run folder: what is refused, kept, ranked, and found damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import Run, UserError, load_weights
from kerakit.files import write_json


class OneByteModel:
    """Stands in for a Keras model where only its file counts."""

    weights = ()

    def __init__(self, content: bytes = b"w") -> None:
        self.content = content

    def save_weights(self, path: Path) -> None:
        path.write_bytes(self.content)


def finished(path: Path) -> Run:
    run = Run(path).create()
    write_json(run.config, {"kerakit": "0"})
    return run


def test_a_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.add_checkpoint(OneByteModel(), 1, 0.5)
    with pytest.raises(UserError, match="--overwrite"):
        Run(run.path).create()
    assert run.best().read_bytes() == b"w"


def test_overwriting_takes_what_is_ours_and_leaves_the_rest(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.add_checkpoint(OneByteModel(), 1, 0.5)
    own = [
        run.path / "notes.txt",
        run.checkpoints / "notes.txt",
        run.logs / "notes.txt",
        run.logs / "train" / "notes.txt",
    ]
    (run.logs / "train").mkdir()
    (run.logs / "train" / "events.out.tfevents.1").touch()
    for path in own:
        path.write_text("mine")
    Run(run.path).create(overwrite=True)
    assert run.list_checkpoints() == []
    assert not list(run.checkpoints.glob("*.h5"))
    assert not list(run.logs.rglob("events*"))
    assert [path.read_text() for path in own] == ["mine"] * 4


@pytest.mark.parametrize("content", ['{"name": "my-web-page"}', "not JSON", "[]"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine.log").write_text("mine")
    with pytest.raises(UserError, match="not written by Kerakit"):
        Run(tmp_path).create(overwrite=True)
    assert (tmp_path / "logs" / "mine.log").read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / "run").create(overwrite=True)


def test_a_linked_folder_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "events.out.tfevents.1").touch()
    run = finished(tmp_path / "run")
    run.logs.rmdir()
    run.logs.symlink_to(tmp_path / "precious")
    run.create(overwrite=True)
    assert (tmp_path / "precious" / "events.out.tfevents.1").exists()


def test_a_run_that_never_saved_anything_is_discarded(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.write_history([{"epoch": 1}])
    run.report.touch()
    run.page.touch()
    run.discard_if_empty()
    assert not run.path.exists()
    run = finished(tmp_path / "run")
    run.add_checkpoint(OneByteModel(), 1, 0.5)
    run.discard_if_empty()
    assert run.best().exists()
    run.best().unlink()
    run.index.unlink()
    (run.path / "mine.txt").touch()
    run.discard_if_empty()
    assert [p.name for p in run.path.iterdir()] == ["mine.txt"]


@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=12),
    limit=st.integers(1, 5),
    higher=st.booleans(),
)
def test_the_best_checkpoints_are_kept(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], limit: int, higher: bool
) -> None:
    run = finished(tmp_path_factory.mktemp("runs") / "run")
    for epoch, value in enumerate(values, 1):
        run.add_checkpoint(OneByteModel(str(epoch).encode()), epoch, value, limit, higher)
    kept = run.list_checkpoints()
    assert len(kept) == min(limit, len(values))
    assert {p.name for p in run.checkpoints.glob("*.h5")} == {c.file for c in kept}

    def badness(value: float | None) -> float:
        return (
            math.inf if value is None or not math.isfinite(value) else -value if higher else value
        )

    dropped = [v for epoch, v in enumerate(values, 1) if epoch not in {c.epoch for c in kept}]
    assert [badness(c.value) for c in kept] == sorted(badness(c.value) for c in kept)
    assert all(badness(v) >= badness(kept[-1].value) for v in dropped)
    assert run.best().read_bytes() == str(kept[0].epoch).encode()


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.add_checkpoint(OneByteModel(b"weights"), 1, 0.5)
    (run.checkpoints / "epoch-0001.weights.h5").write_bytes(b"weightr")
    with pytest.raises(UserError, match="damaged"):
        run.best()


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"file": "a"}]'])
def test_a_damaged_list_of_checkpoints_is_found(tmp_path: Path, content: str) -> None:
    run = finished(tmp_path / "run")
    run.index.write_text(content)
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        run.list_checkpoints()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        Run.open(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no config\.json"):
        Run.open(tmp_path)
    run = finished(tmp_path / "run")
    with pytest.raises(UserError, match="no checkpoint"):
        run.best()
    run.add_checkpoint(OneByteModel(), 1, 0.5)
    run.best().unlink()
    with pytest.raises(UserError, match="is missing"):
        run.best()


def test_a_run_that_was_killed_before_its_first_checkpoint_says_what_is_there(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path / "run").create()
    with pytest.raises(UserError, match="before it began its first epoch"):
        Run.open(run.path)
    run = finished(tmp_path / "run")
    (run.checkpoints / ".0123abcd.epoch-0001.weights.h5").write_bytes(b"half")
    run.check_new(overwrite=False)
    run.add_checkpoint(OneByteModel(), 1, 0.5)
    run.index.unlink()
    with pytest.raises(UserError, match=r"--from_ckpt") as caught:
        run.best()
    assert "ckpt/epoch-0001.weights.h5" in str(caught.value)


def test_the_history_is_one_row_an_epoch(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    rows: list[dict[str, Any]] = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": math.nan}]
    run.write_history(rows)
    assert run.history.read_text() == "epoch,loss\n1,0.5\n2,nan\n"
    first, second = run.read_history()
    assert first == {"epoch": 1.0, "loss": 0.5}
    assert math.isnan(second["loss"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_name_their_layers(tmp_path: Path, value: float) -> None:
    import keras
    from keras import layers

    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="hidden")], name="nested")
    model = keras.Sequential([keras.Input((2,)), inner, layers.Dense(1, name="scores")])
    path = tmp_path / "epoch-0001.weights.h5"
    model.save_weights(path)
    load_weights(model, path)
    for layer in (inner.get_layer("hidden"), model.get_layer("scores")):
        kernel, bias = layer.get_weights()
        bias[0] = value
        layer.set_weights([kernel, bias])
        model.save_weights(path)
        with pytest.raises(UserError, match=layer.name) as caught:
            load_weights(model, path)
        assert str(path) in str(caught.value)
