"""The command ``kerakit``: new projects, data checks, predictions, forecasts, updates."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Literal

import tyro
from tyro.extras import SubcommandApp

from kerakit import __version__, script
from kerakit.errors import JobError, UserError
from kerakit.files import naming, write_text

app = SubcommandApp()


@app.command
def new(
    directory: tyro.conf.Positional[Path],
    task: Literal[
        "classification",
        "multilabel",
        "regression",
        "segmentation",
        "keypoints",
        "detection",
        "multitask",
    ] = "classification",
    data: Path | None = None,
) -> None:
    """Create a project that is ready to run.

    Args:
        directory: Project folder: empty, or not existing yet.
        task: Kind of labels. It decides about task.py and reader.py of the project.
        data: Image folder with one subfolder per class, optionally inside train/, validation/ and
            test/; or a table (.csv, .parquet) with the columns path and label. Default: 1,797
            handwritten digits.
    """
    from kerakit.data import DataReader
    from kerakit.data.digits import write_digits
    from kerakit.update import create_project

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty. Choose another folder.")
    if data is not None:
        DataReader(data)
    create_project(directory)
    if data is None:
        with naming(directory / "data"):
            write_digits(directory / "data")
    else:
        _set_data_dir(directory / "config.py", data.resolve())
    print(_next_steps(directory, digits=data is None))


@app.command
def update(directory: tyro.conf.Positional[Path] = Path(), dry_run: bool = False) -> None:
    """Merge the template of the installed version into a project; your edits are kept.

    Conflicts are marked as by git merge. Exit code 1: there are conflicts.

    Args:
        directory: Project folder.
        dry_run: Show the differences without changing files.
    """
    from kerakit.update import update_project

    if conflicts := update_project(directory, dry_run):
        raise JobError(
            f"{len(conflicts)} file(s) with conflicts: {', '.join(conflicts)}. Resolve them "
            "between the <<<<<<< and >>>>>>> markers."
        )


@app.command
def check(
    data: tyro.conf.Positional[Path],
    save_to: Path = Path("check.csv"),
    train_ratio: float = 0.8,
    seed: int = 0,
) -> None:
    """Check a dataset: unreadable images, duplicates, leaks between splits, rare classes.

    Writes the findings to check.csv; your edits of an earlier list are kept. A project reads the
    check.csv in its own folder. No image is changed.

    Args:
        data: Image folder or table, as for kerakit new.
        save_to: CSV file for the findings, with an editable column "exclude" (yes or no).
        train_ratio: Fraction of training images: TRAIN_RATIO_DEFAULT of the project.
        seed: Seed of the split: --seed of train.py.
    """
    from kerakit.console import progress
    from kerakit.data.check import (
        UncheckedReader,
        check_images,
        print_findings,
        summarize_list,
        write_findings,
    )
    from kerakit.data.exclusions import check_list
    from kerakit.machine import available_cores

    check_list(save_to)
    reader = UncheckedReader(data, train_ratio, seed)
    with progress("checking", len(reader)) as advance:
        findings = check_images(reader, available_cores(), advance)
    print_findings(reader, findings)
    edits = write_findings(save_to, findings)
    print(summarize_list(save_to, len(findings), edits))


@app.command
def predict(
    model: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    top: int = 1,
    as_json: bool = False,
) -> None:
    """Predict images and print one row (path, label, confidence) per label.

    Args:
        model: Run folder inside its project, export folder (its int8 model is used), or .tflite
            file next to a labels.txt.
        images: Images and image folders.
        top: Number of labels per image.
        as_json: Print JSON instead of CSV.
    """
    if top < 1:
        raise UserError(f"--top is {top}; expected at least 1.")
    if not images:
        raise UserError("no images given. Pass files or folders after the model.")
    if (model / "config.json").is_file():
        raise SystemExit(_predict_in_project(model, images, top, as_json))
    from kerakit import deploy

    paths = deploy.find_images(images)
    exported = deploy.load_exported(model)
    if exported.assumption:
        print(f"note: {model}: {exported.assumption}.", file=sys.stderr)
    predictions = deploy.predict_images(
        exported.predict, exported.task, exported.read, paths, top, exported.placement
    )
    if failed := deploy.write_predictions(predictions, as_json):
        raise UserError(f"{failed} of {len(paths)} images were not predicted; see above.")


@app.command
def placement(file: tyro.conf.Positional[Path], json: bool = False) -> None:
    """Forecast which operators of a TensorFlow Lite file map to the Edge TPU.

    Requires neither Google's compiler nor a device; the output format is that of edgetpu_compiler
    16. Exit code 1: the compiler would reject the file.

    Args:
        file: Uncompiled .tflite file, such as model.tflite of an export.
        json: Print JSON instead of the table, with the source of each verdict.
    """
    from kerakit.deploy.edgetpu.forecast import forecast_file, print_forecast

    forecast = forecast_file(file)
    print_forecast(forecast, file, json)
    if forecast.refused:
        raise SystemExit(1)


@app.command
def doctor() -> None:
    """Print the environment for bug reports: versions, devices, memory, compilers, runtimes."""
    from kerakit.doctor import print_environment

    print_environment()


def _predict_in_project(run: Path, images: tuple[Path, ...], top: int, as_json: bool) -> int:
    """Run the project's predict.py: its code, not a file of the run, defines the model."""
    required = ("predict.py", "config.py", "models/__init__.py")
    folders = [Path.cwd(), *run.resolve().parents]
    for project in folders:
        if all((project / name).is_file() for name in required):
            break
    else:
        raise UserError(
            f"{run} is a run, but its project was not found: there is no predict.py in this folder "
            "or above the run."
        )
    flags = ["--read_from", str(run), "--top", str(top), *(["--as_json"] if as_json else [])]
    command = [sys.executable, str(project / "predict.py"), *flags, "--", *map(str, images)]
    return subprocess.call(command)  # noqa: S603 - the user's own script, without a shell


def _set_data_dir(config: Path, data_dir: Path) -> None:
    """Set ``DATA_DIR`` in a project's config.py."""
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
        f"Created {directory}. Next:\n"
        f"  cd {shlex.quote(str(directory))}\n"
        f"  python train.py --save_to progress/test{flags}\n"
        f"  python deploy.py --read_from progress/test --save_to deploy/test"
    )


def main() -> None:
    """Run the command ``kerakit``."""
    if sys.argv[1:] == ["--version"]:
        print(f"kerakit {__version__}")
        return
    description = f"Kerakit {__version__}: building blocks of Keras image projects."
    script.call(lambda: app.cli(prog="kerakit", description=description, use_underscores=True))
