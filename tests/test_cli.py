"""``kerakit new``."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faults import file_size_limit
from kerakit import __version__, cli
from kerakit.flags import Flag, arrange_words
from kerakit.new_project import new_project
from projects import PROJECT


def new(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kerakit", "new", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_it_copies_the_project_and_brings_real_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    done = new("flowers", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python train.py" in done.stdout
    made = {
        path.relative_to(tmp_path / "flowers").as_posix()
        for path in (tmp_path / "flowers").rglob("*")
        if path.is_file() and path.parts[len(tmp_path.parts) + 1] not in ("data", ".kerakit")
    }
    template = {p.relative_to(PROJECT).as_posix() for p in PROJECT.rglob("*") if p.is_file()}
    template = {name for name in template if "__pycache__" not in name}
    assert made == template - {"gitignore"} | {".gitignore"}
    assert (tmp_path / "flowers" / ".kerakit" / "version").read_text() == f"{__version__}\n"
    assert len(list((tmp_path / "flowers" / "data").glob("*/*.png"))) == 1797
    pixels = np.asarray(Image.open(tmp_path / "flowers" / "data" / "0" / "0000.png"))
    np.testing.assert_array_equal(np.round(pixels / 255 * 16), load_digits().images[0])


def test_it_points_the_project_at_the_data(tmp_path: Path, photos: Path) -> None:
    odd = photos.rename(tmp_path / 'it\'s "mine" \\ photos')
    done = new("p", "--data", odd.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "p" / "config.py").read_text()
    changed = set(config.splitlines()) - set((PROJECT / "config.py").read_text().splitlines())
    assert changed == {f"DATA_DIR = Path({str(odd.resolve())!r})"}
    assert not (tmp_path / "p" / "data").exists()


def test_it_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = new(tmp_path)
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("data", ["gone", "."])
def test_it_refuses_data_that_cannot_be_read_and_makes_nothing(tmp_path: Path, data: str) -> None:
    done = new("p", "--data", data, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no command given. Expected one of new, update, "),
        (["neww", "x"], "unknown command 'neww', did you mean 'new'?"),
        (["check", "--labels", "gone"], "there is no folder gone. Expected a run folder"),
        (["check"], "expected DATA, a dataset to check, or --labels with a run folder."),
        (["check", "data", "--save_too", "x"], "unknown flag --save_too, did you mean --save_to?"),
        (["check", "data", "--train_ratio", "2"], "--train_ratio: expected less than 1, got '2'"),
        (["check", "data", "--seed", "a"], "--seed: expected an integer, got 'a'"),
        (["predict", "model"], "missing: images PATH ..."),
        (["predict", "model", "a.jpg", "--top", "0"], "--top: expected at least 1, got '0'"),
        (["update", "--dry_run=1"], "--dry_run takes no value, got '1'"),
        (["doctor", "x"], "unexpected argument 'x'"),
        (["new", ""], "an argument is empty"),
        (["check", ""], "an argument is empty"),
        (["new", "~nosuch/p"], "directory: the user 'nosuch' of ~nosuch/p does not exist."),
        (["check", "x", "--save_to=~nosuch/a"], "--save_to: the user 'nosuch' of ~nosuch/a does"),
        (["predict", "model", "a.jpg", "~nosuch/b.jpg"], "images: the user 'nosuch' of"),
    ],
)
def test_a_wrong_command_line_is_one_error(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["kerakit", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_a_project_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    """At its first file, in the template, in the sample data."""
    (tmp_path / "empty").mkdir()
    for name, size in (("p", 10), ("p", 3_000), ("empty", 20_000)):
        with file_size_limit(size), pytest.raises(OSError, match=f"/{name}") as caught:
            new_project(tmp_path / name, "detection", None)
        assert caught.value.errno == errno.EFBIG
        assert [*tmp_path.rglob("*")] == [tmp_path / "empty"]


def test_the_home_folder_is_found_behind_an_equals_sign(tmp_path: Path) -> None:
    """No shell expands it there. A file whose name begins with ~ is that file."""
    flag = Flag("save_to", Path, is_required=False)
    (tmp_path / "~me").touch()
    with contextlib.chdir(tmp_path):
        assert arrange_words(["--save_to=~/a"], [flag], "x") == [f"--save_to={Path.home()}/a"]
        assert arrange_words(["--save_to", "~me"], [flag], "x") == ["--save_to=~me"]


def test_the_version_is_printed() -> None:
    command = [sys.executable, "-m", "kerakit", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"kerakit {__version__}\n")
