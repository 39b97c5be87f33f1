"""The command ``kerakit``: makes new projects."""

from __future__ import annotations

import ast
import shlex
import shutil
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
        raise UserError(f"{directory} exists and is not empty. Choose another folder: nothing in it was changed.")
    if data is not None:
        DataReader(data)
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(_PROJECT, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    if data is None:
        from kerakit.data.digits import write_digits

        write_digits(directory / "data")
    else:
        _set_data_dir(directory / "config.py", data.resolve())
    print(_next_steps(directory, digits=data is None))


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
    flags = "--model small_cnn --input_size 32,32 --num_epochs 15" if digits else "--model mobilenet_v2 --jitter"
    return (
        f"{directory} is ready. Next:\n"
        f"  cd {shlex.quote(str(directory))}\n"
        f"  python train.py --save_to progress/test {flags}\n"
        f"  python deploy.py --read_from progress/test --save_to deploy/test"
    )


def main() -> None:
    """Run the command ``kerakit``."""
    with ending():
        app.cli(prog="kerakit", description="Kerakit: the parts of every Keras vision project.", use_underscores=True)


if __name__ == "__main__":
    main()
