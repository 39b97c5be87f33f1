"""Cost of saving states and checkpoints in a training: ``python benchmarks/saving.py PHOTOS``.

A new project is trained on PHOTOS, a folder per class, with default flags: ``small_cnn`` from
scratch at 96 by 96 pixels, and MobileNetV2 at 224 by 224, whose upper layers are fine-tuned. Its
lower layers have random weights, for which saving costs the same. Each is a process of its own.
The table has the number of saves, their CPU time (of the thread that saves) and wall time, and
their fractions of the CPU time and wall time of the training, features excluded.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

KINDS = {
    "small_cnn": ("--model", "small_cnn", "--input_size", "96", "--num_epochs", "{epochs}"),
    "mobilenet_v2": (
        *("--model", "mobilenet_v2", "--strategy", "finetune", "--from_ckpt", "{weights}"),
        *("--head_epochs", "{epochs}", "--num_epochs", "{epochs}"),
    ),
}


class Costs:
    """Number and time of the calls of functions, and of ``fit``."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def count(self, name: str, function: Callable[..., Any], cpu: Callable[[], float]) -> Any:
        """Return a function that counts its calls and their time."""
        total = self.values.setdefault(name, [0, 0.0, 0.0])

        @wraps(function)
        def counted(*args: Any, **options: Any) -> Any:
            start = cpu(), time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                total[0] += 1
                total[1] += cpu() - start[0]
                total[2] += time.perf_counter() - start[1]

        return counted


def one(project: str, *flags: str) -> None:
    """Train in this process, and print the costs as JSON."""
    import keras

    from kerakit.run import Run
    from kerakit.training.state_callback import StateSaver

    costs = Costs()
    keras.Model.fit = costs.count("fit", keras.Model.fit, time.process_time)
    StateSaver._save = costs.count(  # type: ignore[method-assign]
        "states", StateSaver._save, time.thread_time
    )
    Run.add_checkpoint = costs.count(  # type: ignore[method-assign]
        "checkpoints", Run.add_checkpoint, time.thread_time
    )
    os.chdir(project)
    sys.argv, sys.path[:0] = ["train.py", *flags], [project]
    runpy.run_path("train.py", run_name="__main__")
    print(json.dumps(costs.values))


def measure(project: Path, kind: str, epochs: int) -> dict[str, list[float]]:
    """Train in a process of its own; return its costs."""
    words = {"epochs": str(epochs), "weights": str(project / "mobilenet_v2.weights.h5")}
    flags = [flag.format(**words) for flag in KINDS[kind]]
    command = [sys.executable, __file__, "--one", str(project), "--save_to", f"progress/{kind}"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    costs: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return costs


def write_weights(project: Path) -> None:
    """Write random weights of MobileNetV2 in place of those of ImageNet."""
    source = (
        "import config; from kerakit.models import build_model; from reader import DataReader; "
        "from task import get_task; reader = DataReader(config.TrainConfig(save_to='x').data_dir); "
        "task = get_task(reader.class_names).adapt(reader); "
        "model, _ = build_model(config.MODELS['mobilenet_v2'], (224, 224), task, 'none'); "
        "model.save_weights('mobilenet_v2.weights.h5')"
    )
    subprocess.run([sys.executable, "-c", source], cwd=project, check=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="folder with a folder of images per class")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each phase")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        command = [sys.executable, "-m", "kerakit", "new", str(project), "--data", args.photos]
        subprocess.run(command, check=True, capture_output=True)
        write_weights(project)
        print("model         saved        count    CPU s    wall s   of the CPU time   of the time")
        for kind in args.kinds:
            costs = measure(project, kind, args.epochs)
            _, cpu, wall = costs.pop("fit")
            for name, (count, seconds, wall_seconds) in costs.items():
                print(
                    f"{kind:13} {name:12} {count:5.0f} {seconds:8.2f} {wall_seconds:9.2f} "
                    f"{seconds / cpu:16.2%} {wall_seconds / wall:14.2%}"
                )
            print(f"{kind:13} {'fit':12} {'':5} {cpu:8.1f} {wall:9.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main()
