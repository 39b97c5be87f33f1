"""Time to accuracy of ``train.py``: ``python benchmarks/time_to_accuracy.py DATA``.

DATA has train/ and validation/ with one folder of photos per class. The baseline is transfer
learning as in tutorials: EfficientNet-Lite0 with ImageNet weights, frozen,
``image_dataset_from_directory``, Adam, ten epochs. Kerakit: ``python train.py``, with an empty
feature cache (first run) and a filled one (second run). Each is a fresh process; they alternate
over three rounds; times start with the process. The table has the seconds until the baseline's best
validation accuracy, the speedup (ratio of medians), the end of the first and of the last epoch, and
the best validation accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROUNDS, EPOCHS, SIZE = 3, 10, (224, 224)
Epochs = list[tuple[float, float]]


def train_baseline(folder: str) -> None:
    """Train the baseline; ``fit`` prints one line per epoch."""
    import keras

    from kerakit.models import EfficientNetLite

    def load(split: str) -> Any:
        options = {"image_size": SIZE, "batch_size": 32, "seed": 0, "verbose": False}
        return keras.utils.image_dataset_from_directory(Path(folder) / split, **options).prefetch(2)

    train, validation = load("train"), load("validation")
    image = keras.Input((*SIZE, 3))
    backbone = EfficientNetLite(0, (*SIZE, 3), include_top=False)
    backbone.trainable = False
    x = keras.layers.GlobalAveragePooling2D()(
        backbone(keras.layers.Rescaling(1 / 128, -127 / 128)(image), training=False)
    )
    x = keras.layers.Dropout(0.3)(x)
    classes = len(list((Path(folder) / "train").iterdir()))
    model = keras.Model(image, keras.layers.Dense(classes, activation="softmax")(x))
    model.compile(
        keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(train, validation_data=validation, epochs=EPOCHS, verbose=2)


def timed(command: list[str], cwd: Path, history: Path | None = None) -> Epochs:
    """Run a training; return (seconds since its start, validation accuracy) of each epoch.

    They are read from the output of ``fit``, or from ``history`` as it is written.
    """
    start = time.perf_counter()
    found: Epochs = []
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    with subprocess.Popen(
        command, cwd=cwd, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        if history is None:
            for line in process.stdout:
                if "val_accuracy: " in line:
                    accuracy = float(line.split("val_accuracy: ")[1].split()[0])
                    found.append((time.perf_counter() - start, accuracy))
        while history is not None and process.poll() is None:
            time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                accuracies = [
                    float(row["val_accuracy"])
                    for row in csv.DictReader(io.StringIO(history.read_text()))
                ]
                found += [
                    (time.perf_counter() - start, accuracy) for accuracy in accuracies[len(found) :]
                ]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return found


def until(epochs: Epochs, accuracy: float) -> float:
    """Return the seconds until ``accuracy`` was reached; infinity if it never was."""
    return next((seconds for seconds, value in epochs if value >= accuracy), float("inf"))


def main() -> None:
    """Alternate the trainings and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--baseline", action="store_true", help="train the baseline alone, once")
    args = parser.parse_args()
    data = args.data.absolute()
    if args.baseline:
        train_baseline(str(data))
        return
    found: dict[str, list[Epochs]] = {"baseline": [], "first": [], "second": []}
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / "project"
        subprocess.run(
            [sys.executable, "-m", "kerakit", "new", str(project), "--data", str(data)],
            check=True,
            capture_output=True,
        )
        train = [sys.executable, "train.py", "--save_to", "progress/test"]
        history = project / "progress" / "test" / "history.csv"
        for _ in range(ROUNDS):
            found["baseline"].append(
                timed(
                    [sys.executable, str(Path(__file__).absolute()), "--baseline", str(data)],
                    project,
                )
            )
            for name in ("first", "second"):
                if name == "first":
                    shutil.rmtree(project / ".cache", ignore_errors=True)
                shutil.rmtree(history.parent, ignore_errors=True)
                found[name].append(timed(train, project, history))
    target = statistics.median(
        max(accuracy for _, accuracy in epochs) for epochs in found["baseline"]
    )
    print(f"best validation accuracy of the baseline in {EPOCHS} epochs, median: {target:.4f}")
    print(
        "| seconds, median of 3 (min to max) | to that accuracy | speedup | first epoch | end "
        "| best |"
    )
    print("|---|---|---|---|---|---|")
    reference = statistics.median(
        until(epochs, max(a for _, a in epochs)) for epochs in found["baseline"]
    )
    for name, rounds in found.items():
        times = [
            until(epochs, target)
            if name != "baseline"
            else until(epochs, max(a for _, a in epochs))
            for epochs in rounds
        ]
        middle = statistics.median(times)
        print(
            f"| {name} | {middle:.1f} ({min(times):.1f} to {max(times):.1f}) "
            f"| {reference / middle:.1f} "
            f"| {statistics.median(epochs[0][0] for epochs in rounds):.1f} "
            f"| {statistics.median(epochs[-1][0] for epochs in rounds):.1f} "
            f"| {statistics.median(max(a for _, a in epochs) for epochs in rounds):.4f} |"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
