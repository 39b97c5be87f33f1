"""``kerakit update`` keeps every edit of a project, from the version before and from this one."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import UserError, __version__, update
from kerakit.merge import merge_texts
from kerakit.update import create_project, read_template, update_project
from projects import Project

LOSS = """

def focal(targets, predictions):
    index = keras.ops.cast(targets, "int32")[:, None]
    of_class = keras.ops.take_along_axis(predictions, index, axis=1)[:, 0]
    return -((1 - of_class) ** 2) * keras.ops.log(of_class + 1e-7)


LOSSES["focal"] = focal
"""

MODEL = """
def construct(input_shape, num_classes):
    import keras

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(name="features")]
    head = keras.layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), *layers, head])
"""


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} in {path}"
    path.write_text(text.replace(old, new))


@pytest.fixture
def old_project(tmp_path: Path, photos: Path) -> Project:
    """A project of version 0.1.0 with an edited augmentation, loss, configuration, and a model."""
    path = tmp_path / "old"
    with zipfile.ZipFile(update._PAST_TEMPLATES / "0.1.0.zip") as archive:
        archive.extractall(path)
    edit(path / "config.py", 'Path(__file__).parent / "data"', f"Path({str(photos)!r})")
    edit(path / "config.py", "TRAIN_RATIO_DEFAULT = 0.8", "TRAIN_RATIO_DEFAULT = 0.75")
    edit(path / "callbacks.py", "PATIENCE = 10", "PATIENCE = 4")
    edit(path / "datagen.py", "brightness=0.15 * s", "brightness=0.3 * s")
    erasing = "A.Erasing(scale=(0.02, 0.1), p=0.2 * s),"
    edit(path / "datagen.py", erasing, f"{erasing} A.InvertImg(p=1.0),")
    with (path / "loss.py").open("a") as file:
        file.write(LOSS)
    (path / "models" / "mine.py").write_text(MODEL)
    (path / "notes.txt").write_text("mine")
    return Project(path)


def test_a_project_of_the_version_before_trains_with_its_edits(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert update_project(old_project.path) == []
    output = capsys.readouterr().out
    assert re.search(r"merge +loss\.py", output)
    assert re.search(r"remove +phases\.py", output)
    datagen = (old_project.path / "datagen.py").read_text()
    assert "A.InvertImg(p=1.0)" in datagen
    assert "data.Recolor(" in datagen
    assert "brightness=0.3 * s" in datagen
    assert "TRAIN_RATIO_DEFAULT = 0.75" in (old_project.path / "config.py").read_text()
    assert "PATIENCE = 4" in (old_project.path / "callbacks.py").read_text()
    assert (old_project.path / "models" / "mine.py").read_text() == MODEL
    assert (old_project.path / "notes.txt").read_text() == "mine"
    result = old_project.train("--model", "mine", "--loss", "focal", "--jitter")
    assert result.code == 0, result.err
    assert update_project(old_project.path) == []
    assert "0 file(s)" in capsys.readouterr().out


def test_what_cannot_be_merged_is_explained(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(old_project.path / "config.py", "    small_cnn,\n)", "    small_cnn,\n    mine,\n)")
    edit(old_project.path / "phases.py", "HEAD_EPOCHS = 20", "HEAD_EPOCHS = 30")
    assert update_project(old_project.path) == ["config.py"]
    output = capsys.readouterr().out
    assert "MODELS" in output
    assert "train.py" in output[output.index("phases.py") :].splitlines()[1]
    assert "HEAD_EPOCHS = 30" in (old_project.path / "phases.py").read_text()


def test_a_dry_run_shows_the_differences_and_changes_nothing(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {p: p.read_bytes() for p in old_project.path.rglob("*") if p.is_file()}
    update_project(old_project.path, dry_run=True)
    output = capsys.readouterr().out
    assert "+++ updated/train.py" in output
    assert {p: p.read_bytes() for p in old_project.path.rglob("*") if p.is_file()} == files


def test_an_edit_of_the_same_line_is_marked_as_git_marks_it(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(old_project.path / "train.py", "def main(args: config.TrainConfig)", "def main(flags)")
    command = [sys.executable, "-m", "kerakit", "update", str(old_project.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "train.py" in done.stderr
    text = (old_project.path / "train.py").read_text()
    assert "def main(flags)" in text[text.index("<<<<<<< project") : text.index("=======")]
    assert ">>>>>>> template" in text


def test_deleted_and_unrelated_files_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create_project(tmp_path)
    (tmp_path / "evaluate.py").unlink()
    edit(tmp_path / "search.py", "HIGHER_IS_BETTER = True", "HIGHER_IS_BETTER = False")
    (tmp_path / "new.py").write_text("mine = 1\n")
    newer = tmp_path.parent / "newer"
    shutil.copytree(update.TEMPLATE, newer)
    with (newer / "evaluate.py").open("a") as file:
        file.write("# newer\n")
    (newer / "new.py").write_text("theirs = 1\n")
    (newer / "search.py").unlink()
    monkeypatch.setattr(update, "read_template", _reader_of(newer))
    assert update_project(tmp_path) == []
    assert not (tmp_path / "evaluate.py").exists()
    assert (tmp_path / "new.py").read_text() == "mine = 1\n"
    assert "HIGHER_IS_BETTER = False" in (tmp_path / "search.py").read_text()
    assert capsys.readouterr().out.count("keep ") == 3


def _reader_of(newer: Path) -> object:
    return lambda folder=None: read_template(folder or newer)


def test_a_folder_that_is_not_a_project_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("DEBUG = True\n")
    with pytest.raises(UserError, match="kerakit new"):
        update_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.py"]


def test_the_version_is_recorded(tmp_path: Path) -> None:
    create_project(tmp_path)
    assert (tmp_path / ".kerakit" / "version").read_text().strip() == __version__


# -------------------------------------------------------------------------------------------- merge

NAMES = st.sampled_from(["ALPHA", "BETA", "GAMMA", "DELTA"])
MODULES = st.dictionaries(NAMES, st.integers(0, 9), min_size=1)


def source(constants: dict[str, int], comment: str = "") -> str:
    return "".join(f"{comment}{name} = {value}\n" for name, value in constants.items())


@given(base=MODULES, changes=MODULES, comment=st.sampled_from(["", "# a comment\n"]))
def test_changed_constants_and_added_statements_survive_a_rewrite(
    base: dict[str, int], changes: dict[str, int], comment: str
) -> None:
    ours = {**base, **changes}
    theirs = source(base, comment="# rewritten\n")
    text, is_clean = merge_texts(source(ours, comment), source(base, comment), theirs)
    assert is_clean
    values = {
        node.targets[0].id: node.value.value  # type: ignore[attr-defined]
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }
    assert values == ours
    assert "# rewritten" in text


@given(ours=st.text("ab\n"), base=st.text("ab\n"), theirs=st.text("ab\n"))
def test_a_merge_without_edits_on_one_side_is_the_other_side(
    ours: str, base: str, theirs: str
) -> None:
    assert merge_texts(ours, base, base) == (ours, True)
    assert merge_texts(base, base, theirs) == (theirs, True)


def test_a_reformatted_call_keeps_changed_arguments() -> None:
    base = "x = [f(1, key=2), g(3)]\n"
    ours = "x = [f(1, key=5), g(3), h(4)]\n"
    theirs = "# new\nx = [\n    m.f(\n        1,\n        key=2,\n    ),\n    g(3),\n]\n"
    text, is_clean = merge_texts(ours, base, theirs)
    assert is_clean
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse("x = [m.f(1, key=5), g(3), h(4)]"))
    assert text.startswith("# new\n")
