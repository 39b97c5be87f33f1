"""Bad input to train.py and deploy.py: each is explained, and nothing is lost or half-written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from faults import file_size_limit
from fork_server import ForkServer
from projects import Project, write_image


def snapshot(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--model", "smal_cnn"], "'small_cnn'"),
        (["--jiter"], "--jitter"),
        (["--data_dir", "gone"], "/gone"),
        (["--data_dir", "empty"], "/empty"),
        (["--data_dir", "one"], "class"),
        (["--data_dir", "hollow"], "'b'"),
        (["--from_ckpt", "gone"], "gone"),
        (["--loss", "sparse_categorical_crossentropi"], "'sparse_categorical_crossentropy'"),
        (["--loss_weights", "1,2"], "--loss_weights"),
        (["--model", "mobilenet_v2"], "32,32"),
        (["--weights", "imagenet"], "--weights"),
        (["--strategy", "head"], "--strategy"),
        (["--mixed_precision"], "--mixed_precision"),
        (["--loss", "categorical_crossentropy"], "sparse_categorical_crossentropy"),
        (["--loss", "__name__"], "'__name__'"),
        (["--learning_rate", "inf"], "learning_rate"),
        (["--save_to", ""], "save_to"),
        (["--save_to", "train.py/x"], "train.py/x"),
    ],
)
def test_bad_input_to_train_is_named_and_leaves_nothing(
    project: Project, args: list[str], named: str
) -> None:
    (project.path / "empty").mkdir()
    write_image(project.path / "one" / "a" / "1.png", 0)
    write_image(project.path / "hollow" / "a" / "1.png", 0)
    (project.path / "hollow" / "b").mkdir()
    result = project.train(*args)
    assert result.code == 2, result.out + result.err
    assert named in result.err
    assert "Traceback" not in result.err
    assert not (project.path / "progress" / "test").exists()


@pytest.mark.parametrize(
    ("script", "args", "code", "named"),
    [
        ("train.py", ["--save_to", "progress/test", "--modle", "small_cnn"], 2, "--model"),
        ("deploy.py", ["--read_from", "gone", "--save_to", "deploy/test"], 2, "gone"),
        ("evaluate.py", ["--read_from", "models"], 2, "config.json"),
        ("predict.py", ["--read_from", "gone", "photo.jpg"], 2, "gone"),
    ],
)
def test_a_process_ends_with_an_exit_code_and_a_message(
    project: Project, script: str, args: list[str], code: int, named: str
) -> None:
    result = project.run(script, *args)
    assert result.code == code
    assert named in result.err
    assert "Traceback" not in result.err


def test_an_unreadable_image_is_named(project: Project, photos: Path) -> None:
    for path in photos.glob("pear/*.png"):
        path.write_bytes(path.read_bytes()[:60])
    result = project.train()
    assert result.code == 2
    assert "pear/" in result.err
    assert "kerakit check" in result.err
    assert not (project.path / "progress" / "test").exists()
    assert "Traceback" not in result.err


def test_an_unreadable_image_can_be_replaced(project: Project, photos: Path) -> None:
    for i in range(150):
        write_image(photos / "apple" / f"more-{i}.png", seed=i)
    (photos / "apple" / "more-7.png").write_bytes(b"not an image")
    result = project.train("--skip_unreadable")
    assert result.code == 0, result.err
    assert result.err.count("more-7.png") == 1


def test_a_run_is_not_replaced_unasked(trained: Project) -> None:
    before = snapshot(trained.path / "progress")
    result = trained.train()
    assert result.code == 2
    assert "--overwrite" in result.err
    assert snapshot(trained.path / "progress") == before


def test_a_run_survives_a_new_one_that_cannot_start(trained: Project) -> None:
    before = snapshot(trained.path / "progress")
    assert trained.train("--overwrite", "--data_dir", "gone").code == 2
    assert trained.train("--overwrite", "--from_ckpt", "gone").code == 2
    assert snapshot(trained.path / "progress") == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "file", "named"),
    [
        (Path.unlink, "config.json", "config.json"),
        (cut, "config.json", "damaged"),
        (Path.unlink, "ckpt/index.json", "checkpoint"),
        (cut, "ckpt/index.json", "damaged"),
        (Path.unlink, "ckpt/best", "missing"),
        (cut, "ckpt/best", "damaged"),
        (flip, "ckpt/best", "damaged"),
    ],
)
def test_a_damaged_run_is_not_deployed(trained: Project, spoil: Any, file: str, named: str) -> None:
    run = trained.path / "progress" / "test"
    best = json.loads((run / "ckpt" / "index.json").read_text())[0]["file"]
    spoil(run / file.replace("best", best))
    result = trained.deploy()
    assert result.code == 2
    assert named in result.err
    assert "Traceback" not in result.err
    assert not (trained.path / "deploy" / "test").exists()


def test_a_checkpoint_of_another_model_is_refused(trained: Project) -> None:
    result = trained.train(
        "--model",
        "mobilenet_v1",
        "--input_size",
        "32,32",
        "--from_ckpt",
        "progress/test",
        save_to="p",
    )
    assert result.code == 2
    assert "mobilenet_v1" in result.err
    assert "Traceback" not in result.err


def test_a_compiler_that_is_not_there_is_refused_at_once(trained: Project) -> None:
    result = trained.deploy("--edgetpu_compiler", "./gone")
    assert result.code == 2
    assert "gone" in result.err
    assert not (trained.path / "deploy").exists()


def test_the_data_is_found_again_from_another_folder(
    project: Project, photos: Path, server: ForkServer
) -> None:
    photos.rename(project.path / "moved")
    assert project.train("--data_dir", "moved").code == 0
    flags = ("--read_from", "../progress/test", "--save_to", "here", "--formats", "keras")
    done = server.run(project.path / "models", "../deploy.py", *flags)
    assert done.code == 0, done.err


def test_other_data_than_the_models_are_refused(trained: Project) -> None:
    for i in range(20):
        write_image(trained.path / "other" / "cat" / f"{i}.png", i)
        write_image(trained.path / "other" / "dog" / f"{i}.png", i)
    result = trained.deploy("--data_dir", "other")
    assert result.code == 2
    assert "apple, pear" in result.err


def test_what_was_deployed_is_not_replaced_unasked(trained: Project) -> None:
    assert trained.deploy("--formats", "h5").code == 0
    (trained.path / "deploy" / "test" / "notes.txt").write_text("mine")
    before = snapshot(trained.path / "deploy")
    result = trained.deploy("--formats", "float32")
    assert result.code == 2
    assert "--overwrite" in result.err
    assert snapshot(trained.path / "deploy") == before
    assert trained.deploy("--formats", "float32", "--overwrite").code == 0
    assert {p.name for p in (trained.path / "deploy" / "test").iterdir()} == {
        "model_float32.tflite",
        "labels.txt",
        "task.json",
        "preprocessing.json",
        "report.json",
        "report.html",
        "README.md",
        "notes.txt",
    }


@pytest.mark.parametrize("script", ["train", "deploy"])
def test_a_place_that_cannot_be_written_is_named(trained: Project, script: str) -> None:
    """/proc takes no folders, from root neither."""
    result = (
        trained.train(save_to="/proc/run")
        if script == "train"
        else trained.deploy(save_to="/proc/run")
    )
    assert result.code == 2
    assert "/proc/run" in result.err
    assert "Traceback" not in result.err


def test_a_full_disk_is_named_and_leaves_nothing_half_written(trained: Project) -> None:
    """A limit on the size of files stands for a full disk; for HDF5 see test_files.py."""
    with file_size_limit(65536):
        done = trained.deploy("--formats", "float32,int8", save_to="deploy/full")
    assert done.code == 1
    assert "the limit on the size of files (ulimit -f) is reached: deploy/full/" in done.err
    assert "Traceback" not in done.err
    assert not (trained.path / "deploy" / "full").exists()
