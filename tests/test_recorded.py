"""A run remembers what it was: its split, its architecture, where its data is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import pytest

from kerakit import UserError, fingerprint
from kerakit.data import DataReader
from projects import Project, edit, write_image


def evaluated(project: Project) -> tuple[int, str]:
    result = project.call("evaluate.py", "--read_from", "progress/test")
    assert "Traceback" not in result.err
    path = project.path / "progress" / "test" / "evaluation.json"
    images = json.loads(path.read_text())["images"] if result.code == 0 else 0
    return images, result.err


def held_out(project: Project) -> list[str]:
    lines = (project.path / "progress" / "test" / "split.csv").read_text().splitlines()
    return [line.partition(",")[0] for line in lines if line.endswith(",test")]


def test_an_edited_split_is_restored_and_missing_images_are_named(
    trained: Project, photos_once: Path, tmp_path: Path
) -> None:
    """One copy of a run: each edit is one step."""
    names = held_out(trained)
    data = Path(shutil.copytree(photos_once, trained.path / "data"))
    edit(
        trained.path / "progress" / "test" / "config.json",
        json.dumps(str(photos_once)),
        json.dumps("data"),  # inside the project: relative
    )
    edit(trained.path / "config.py", "TRAIN_RATIO_DEFAULT = 0.8", "TRAIN_RATIO_DEFAULT = 0.5")
    rows = "".join(f"{name},yes\n" for name in names[:2])
    (trained.path / "check.csv").write_text(f"path,exclude\n{rows}")
    for i in range(20):
        write_image(data / "pear" / f"new-{i}.png", seed=i)
    moved = Project(trained.path.rename(tmp_path / "moved"))
    assert evaluated(moved) == (len(names), "")
    (moved.path / "data" / names[0]).unlink()
    _, error = evaluated(moved)
    assert f"held out {len(names)} images" in error
    assert f"has {len(names) - 1} of them; missing: {names[0]}" in error
    (moved.path / "data").rename(moved.path / "elsewhere")
    assert "--data_dir" in evaluated(moved)[1]
    split = moved.path / "progress" / "test" / "split.csv"
    split.write_text(split.read_text().replace(",train", ",test", 1))
    result = moved.deploy("--data_dir", "elsewhere")
    assert (result.code, "split.csv is damaged" in result.err) == (2, True)


def test_an_edited_architecture_is_refused(trained: Project) -> None:
    edit(trained.path / "models" / "small_cnn.py", "ReLU(6)", "ReLU()")
    photo = next(Path(trained.path).rglob("*.png"))
    for script, *flags in (
        ("evaluate.py",),
        ("deploy.py", "--save_to", "deploy/test"),
        ("predict.py", photo),
    ):
        result = trained.call(script, "--read_from", "progress/test", *flags)
        assert (result.code, "architecture of small_cnn changed" in result.err) == (2, True), script
    assert not (trained.path / "deploy").exists()


def small_model(name: str, slope: float = 0.1, rate: float = 0.2, scale: int = 2) -> keras.Model:
    image = keras.Input((8, 8, 3), name=name)
    x = keras.layers.Conv2D(2, 3)(image)
    x = keras.layers.LeakyReLU(slope)(x)
    x = keras.layers.Lambda((lambda t: t * 2) if scale == 2 else (lambda t: t * 3))(x)
    x = keras.layers.Dropout(rate)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(2, name=f"{name}-out")(x))


def test_the_fingerprint_is_that_of_the_computation() -> None:
    first = fingerprint(small_model("a"))
    assert fingerprint(small_model("b", rate=0.5)) == first
    assert fingerprint(small_model("a", slope=0.2)) != first
    frozen = small_model("a")
    frozen.trainable = False
    assert fingerprint(frozen) == first


@pytest.mark.parametrize("place", ["models", ".", "..", "link", ".cache/run", "data/run"])
def test_no_output_is_written_into_the_project(project: Project, photos: Path, place: str) -> None:
    (project.path / "link").symlink_to(project.path / "models")
    photos.rename(project.path / "data")
    before = sorted(project.path.rglob("*"))
    path = project.path / place
    result = project.train("--overwrite", "--data_dir", "data", save_to=path)
    assert (result.code, "save_to: " in result.err) == (2, True)
    if place != "data/run":
        result = project.deploy("--overwrite", save_to=path)
        assert (result.code, "save_to: " in result.err) == (2, True)
    assert [p for p in sorted(project.path.rglob("*")) if "__pycache__" not in p.parts] == [
        p for p in before if "__pycache__" not in p.parts
    ]


def test_a_reader_whose_keys_repeat_is_refused(photos: Path, tmp_path: Path) -> None:
    from kerakit import Run
    from kerakit.data import record_split

    class OneKey(DataReader):
        def key(self, i: int) -> str:  # noqa: ARG002 - the protocol
            return "same"

    with pytest.raises(UserError, match="unique"):
        record_split(OneKey(photos), Run(tmp_path))
    assert not Run(tmp_path).split.exists()
