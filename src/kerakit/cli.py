"""The command ``kerakit``: makes new projects, checks data, says what photos show and what the Edge TPU takes."""

from __future__ import annotations

import ast
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import tyro
from tyro.extras import SubcommandApp

from kerakit.data.reader import DataReader
from kerakit.errors import UserError
from kerakit.files import write_text
from kerakit.script import ending

_PROJECT = Path(__file__).parent / "project"

app = SubcommandApp()


@app.command
def new(directory: tyro.conf.Positional[Path], data: Path | None = None) -> None:
    """Make a project that runs at once.

    Args:
        directory: Where to; it must not exist, or be empty.
        data: Folder of images: one folder a class, or train/, validation/, test/ with one folder a class inside. Or a table
            (.csv, .parquet) with the columns path and label. Without
            it the project brings 1,797 handwritten digits.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(
            f"{directory} exists and is not empty. Choose another folder: nothing in it was changed."
        )
    if data is not None:
        DataReader(data)
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(
        _PROJECT, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    if data is None:
        from kerakit.data.digits import write_digits

        write_digits(directory / "data")
    else:
        _set_data_dir(directory / "config.py", data.resolve())
    print(_next_steps(directory, digits=data is None))


@app.command
def check(
    data: tyro.conf.Positional[Path],
    save_to: Path = Path("check.csv"),
    train_ratio: float = 0.8,
    seed: int = 0,
) -> None:
    """Read every image once, and list what may spoil a training: in a project's folder, its reader respects the list.

    Looks for images that cannot be read, the same or nearly the same picture twice, above all on both sides of the split,
    wrong endings, tiny and huge images, and rare classes. No image is changed.

    Args:
        data: Folder or table of the images, as for kerakit new.
        save_to: The list, a CSV file: what is wrong with which image, and whether to leave it out (yes or no; you may edit it).
        train_ratio: As TRAIN_RATIO_DEFAULT of the project: share of the images to train on where the data give no split.
        seed: As the --seed of train.py: of that split.
    """
    from kerakit.data import check as checking
    from kerakit.machine import available_cores

    if save_to.is_dir() or not save_to.parent.is_dir():
        raise UserError(
            f"{save_to} cannot be written: expected the name of a file in a folder that is there, such as check.csv."
        )
    reader = DataReader(data, train_ratio, seed)
    with checking.progress(len(reader)) as say:
        findings = checking.check(reader, available_cores(), say)
    checking.show(reader, findings)
    checking.write_findings(save_to, findings)
    num_excluded = len({finding.key for finding in findings if finding.exclusions})
    print(
        f"{save_to}: {len(findings):,} findings; the project in whose folder it lies leaves {num_excluded:,} images out."
    )


@app.command
def predict(
    model: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    top: int = 1,
    as_json: bool = False,
) -> None:
    """Say what photos show: a line "path,label,confidence" for each.

    Args:
        model: A run, in its project; or a folder that deploy.py wrote (its int8 model), or a .tflite file beside a labels.txt.
        images: Images, and folders of them.
        top: How many labels to give for each image.
        as_json: JSON instead of CSV.
    """
    if top < 1:
        raise UserError(f"--top is {top}; expected at least 1.")
    if not images:
        raise UserError("no images were given. Name files, or folders of them, after the model.")
    if (model / "config.json").is_file():
        raise SystemExit(_predict_by_the_project(model, images, top, as_json))
    from kerakit.deploy.predict import answers, images_in, load_delivered, write_answers

    paths = images_in(images)
    run, input_size, labels = load_delivered(model)
    if bad := write_answers(answers(run, input_size, labels, paths, top), as_json):
        raise UserError(f"{bad} of {len(paths)} images could not be read; they are named above.")


@app.command
def placement(file: tyro.conf.Positional[Path], json: bool = False) -> None:
    """Forecast what the Edge TPU takes of a TensorFlow Lite file, without Google's compiler and without the device.

    Prints a table in the layout of edgetpu_compiler 16. Exit code 1 where the compiler would refuse the file.

    Args:
        file: A .tflite file that was not compiled yet, such as the model.tflite that deploy.py writes.
        json: JSON instead of the table, with the source of each verdict.
    """
    from kerakit.deploy.edgetpu.forecast import forecast_file, show

    forecast = forecast_file(file)
    show(forecast, file, json)
    if forecast.refused:
        raise SystemExit(1)


def _predict_by_the_project(run: Path, images: tuple[Path, ...], top: int, as_json: bool) -> int:
    """Have the project's own script answer: its code, not a file of the run, says what the model is."""
    of_a_project = ("predict.py", "config.py", "models/__init__.py")
    folders = [Path.cwd(), *run.resolve().parents]
    project = next(
        (folder for folder in folders if all((folder / name).is_file() for name in of_a_project)),
        None,
    )
    if project is None:
        raise UserError(
            f"{run} is a run, but its project is not here: there is no predict.py in this folder or above the run."
        )
    words = [
        "--read_from",
        str(run),
        "--top",
        str(top),
        *(["--as_json"] if as_json else []),
        "--",
        *map(str, images),
    ]
    return subprocess.call([sys.executable, str(project / "predict.py"), *words])  # noqa: S603 - the user's own script, without a shell


def _set_data_dir(config: Path, data_dir: Path) -> None:
    """Let the project's ``DATA_DIR`` name ``data_dir``: the one line of the project that differs from the start."""
    source = config.read_text(encoding="utf-8")
    line = next(
        node.lineno
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DATA_DIR"
    )
    lines = source.splitlines(keepends=True)
    lines[line - 1] = f"DATA_DIR = Path({str(data_dir)!r})\n"
    write_text(config, "".join(lines))


def _next_steps(directory: Path, digits: bool) -> str:
    flags = " --model small_cnn --input_size 32,32 --num_epochs 15" if digits else ""
    return (
        f"{directory} is ready. Next:\n"
        f"  cd {shlex.quote(str(directory))}\n"
        f"  python train.py --save_to progress/test{flags}\n"
        f"  python deploy.py --read_from progress/test --save_to deploy/test"
    )


def main() -> None:
    """Run the command ``kerakit``."""
    with ending():
        app.cli(
            prog="kerakit",
            description="Kerakit: the parts of every Keras vision project.",
            use_underscores=True,
        )


if __name__ == "__main__":
    main()
