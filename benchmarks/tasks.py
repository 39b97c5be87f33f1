"""Tasks other than classification: ``python benchmarks/tasks.py DATA [BENCHMARK ...]``.

The folder DATA has bccd/ (photos of blood cells, Pascal VOC) and camvid_small/ (road scenes: train/
and val/ with images/ and masks/, where 11 is no class).

samples, detection, segmentation, multilabel and regression run the scripts of new projects, and
read the report of the export: the main metric in Keras, float32 and int8, and the operators that
map to the Edge TPU. Images that are held out also select the checkpoint. Training takes --minutes;
the baseline of segmentation, ``unet.py``, as long. Times are CPU times over the number of cores, so
that other programs do not count.

latency is that of a detector of 320 by 320 pixels: from an array of pixels to boxes, relative to
the interpreter alone. loading reads and augments images with boxes and with classes. decoding
compares masks with those of OpenCV. These alternate; printed are medians (min to max).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROUNDS = 5
CORES = len(os.sched_getaffinity(0))
TASKS = ("multilabel", "regression", "segmentation", "keypoints", "detection", "multitask")

LOADING = """
import sys, time
import config
from datagen import BatchGenerator
from reader import DataReader
from task import get_task
size = int(sys.argv[1])
reader = DataReader()
task = get_task(reader.class_names).adapt(reader)
generator = BatchGenerator(reader, "train", 16, (size, size), jitter=True, task=task)
count = 0
for epoch in range(6):
    generator.epoch = epoch
    if epoch == 1:
        start, wall = time.process_time(), time.perf_counter()
    for i in range(len(generator)):
        count += len(generator[i][0]) * (epoch > 0)
print(count / (time.process_time() - start), count / (time.perf_counter() - wall))
"""

LATENCY = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import predict
from PIL import Image
model = predict.Model(Path(sys.argv[1], "model.tflite"))
height, width = model.shape[:2]
photos = [np.asarray(Image.open(path).convert("RGB")) for path in sys.argv[2:]]
for kind in ("input", "photo"):
    for number, photo in enumerate(photos):
        pixels = predict.resize(photo, (width, height)) if kind == "input" else photo
        start = time.perf_counter()
        if kind == "photo":
            pixels = predict.resize(pixels, (width, height))
        outputs, milliseconds = model.run(pixels)
        boxes = model.decoder.visible(model.decode(outputs))
        total = (time.perf_counter() - start) * 1e3
        if number >= 5:
            print(kind, milliseconds, total, len(boxes))
"""


@dataclass
class Trained:
    """A training and its export.

    Attributes:
        minutes: CPU time of train.py over the number of cores.
        report: report.json of the export.
        operators: number of operators that map to the Edge TPU, and the names of the others.
    """

    minutes: float
    report: dict[str, Any]
    operators: tuple[int, list[str]] = (0, [])
    note: str = ""


@dataclass
class Bench:
    """Arguments and folder of a run."""

    data: Path
    minutes: float
    folder: Path
    flags: list[str] = field(default_factory=list)

    def new(self, name: str, task: str, data: Path | None) -> tuple[Path, list[str]]:
        """Create a project; return its folder, and the flags of train.py that it recommends."""
        project = self.folder / name
        command = [sys.executable, "-m", "kerakit", "new", str(project), "--task", task]
        done = run([*command, *(["--data", str(data)] if data else [])], self.folder)
        (line,) = re.findall(r"train\.py --save_to progress/test(.*)", done.stdout)
        return project, line.split()

    def train(self, project: Path, flags: list[str], limited: bool = True) -> Trained:
        """Train for the time, or with the default number of epochs; export; return the results."""
        options = [*flags, *self.flags]
        epochs = [] if not limited else ["--num_epochs", str(self._count_epochs(project, options))]
        shutil.rmtree(project / ".cache", ignore_errors=True)
        train = [sys.executable, "train.py", "--save_to", "progress/test", *options, *epochs]
        seconds = run(train, project).seconds
        deploy = [sys.executable, "deploy.py", "--read_from", "progress/test"]
        # Exit code 1: a format is below the accuracy gate, also in the report.
        run([*deploy, "--save_to", "deploy/test"], project, codes=(0, 1))
        folder = project / "deploy" / "test"
        report = json.loads((folder / "report.json").read_text())
        rows = len((project / "progress/test/history.csv").read_text().splitlines()) - 1
        note = f"{report['model']}, {rows} epochs" + (f", {' '.join(options)}" if options else "")
        return Trained(seconds / 60, report, count_operators(folder / "model.tflite"), note)

    def _count_epochs(self, project: Path, flags: list[str]) -> int:
        """Return the number of epochs of the time, by a short training."""
        train = [sys.executable, "train.py", "--save_to", "progress/probe", *flags]
        history = project / "progress" / "probe" / "history.csv"
        marks = run([*train, "--num_epochs", "3", "--overwrite"], project, history).marks
        rest = self.minutes * 60 - marks[-3]
        return max(1, int(rest / ((marks[-1] - marks[-3]) / 2)))


@dataclass
class Done:
    """Result of a command: its output, its time, and the times at the ends of epochs."""

    stdout: str
    seconds: float
    marks: list[float]


def run(
    command: list[str], cwd: Path, history: Path | None = None, codes: tuple[int, ...] = (0,)
) -> Done:
    """Run a command; ``history`` gains one row per epoch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    marks: list[float] = []
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            time.sleep(0.05)
            if history is not None and history.exists():
                rows = len(history.read_text().splitlines()) - 1
                marks += [cpu_seconds(process.pid) / CORES] * (rows - len(marks))
        output.seek(0)
        text = output.read()
    if process.returncode not in codes:
        raise SystemExit(f"{text}\n{' '.join(command)} failed with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(text, seconds / CORES, marks)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its children that ended."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return sum(map(int, values[11:15])) / os.sysconf("SC_CLK_TCK")


def count_operators(path: Path) -> tuple[int, list[str]]:
    """Return how many operators map to the Edge TPU by forecast, and the names of the others."""
    from kerakit.deploy.edgetpu.forecast import forecast

    found = forecast(path.read_bytes())
    return found.on_tpu, [one.op for one in found.operators if one.target != "tpu"]


HEADER = (
    "| task | metric | Keras | float32 | int8 | int8 - float32, points | training, min "
    "| Edge TPU | |\n|---|---|---|---|---|---|---|---|---|"
)


def row(name: str, trained: Trained) -> str:
    """Return the row of a table."""
    report = trained.report
    metric = report["main_metric"]
    formats = {one["format"]: one["metrics"][metric] for one in report["formats"] if one["metrics"]}
    values = [report["keras_metrics"][metric], formats["float32"], formats["int8"]]
    cells = " | ".join(f"{100 * value:.2f}" for value in values)
    mapped, others = trained.operators
    target = f"{mapped} of {mapped + len(others)}" + (f" ({', '.join(others)})" if others else "")
    return (
        f"| {name} | {metric} | {cells} | {100 * (values[2] - values[1]):+.2f} "
        f"| {trained.minutes:.1f} | {target} | {trained.note} |"
    )


def edit(path: Path, old: str, new: str) -> None:
    """Replace a part of a file of a project, which has to be there once."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path} has {text.count(old)} times {old!r}; expected it once.")
    path.write_text(text.replace(old, new))


def samples(bench: Bench) -> None:
    """Train each task on its sample dataset, with the flags that ``kerakit new`` prints."""
    print(HEADER)
    for task in TASKS:
        start = time.perf_counter()
        project, flags = bench.new(f"sample_{task}", task, None)
        trained = bench.train(project, flags, limited=False)
        trained.note += f"; new, train and export: {time.perf_counter() - start:.0f} s elapsed"
        print(row(f"{task}, sample data", trained), flush=True)


def detection(bench: Bench) -> None:
    """Train on the boxes of bccd."""
    project, flags = bench.new("detection", "detection", bench.data / "bccd")
    print(f"{HEADER}\n{row('detection, bccd', bench.train(project, flags))}")


def multilabel(bench: Bench) -> None:
    """Train on the kinds of cells that a photo of bccd has."""
    project, flags = bench.new("multilabel", "multilabel", bench.data / "bccd")
    print(f"{HEADER}\n{row('multilabel, bccd', bench.train(project, flags))}")


def regression(bench: Bench) -> None:
    """Train on the number of red blood cells in a photo of bccd."""
    project, flags = bench.new("regression", "regression", bench.data / "bccd")
    edit(project / "reader.py", "seed, exclusions)", 'seed, exclusions, columns=["RBC"])')
    trained = bench.train(project, flags)
    print(f"{HEADER}\n{row('regression, RBC of bccd', trained)}")
    print(f"errors in cells: {json.dumps(trained.report['keras_metrics'])}")


def segmentation(bench: Bench) -> None:
    """Train on the 11 classes of camvid_small; compare with a U-Net of the same size and time."""
    data = bench.data / "camvid_small"
    project, flags = bench.new("segmentation", "segmentation", data)
    edit(project / "reader.py", "IGNORE: tuple[int, ...] = ()", "IGNORE = (11,)")
    trained = bench.train(project, flags)
    print(f"{HEADER}\n{row('segmentation, camvid_small', trained)}", flush=True)
    size = json.loads((project / "progress/test/config.json").read_text())["input_size"]
    baseline = [
        sys.executable,
        str(Path(__file__).with_name("unet.py")),
        str(data),
        "--ignore",
        "11",
    ]
    time_and_size = ["--minutes", str(bench.minutes), "--size", *map(str, size)]
    found = json.loads(run([*baseline, *time_and_size], bench.folder).stdout.splitlines()[-1])
    print(f"U-Net: mean_iou {100 * found['mean_iou']:.2f} after {found['epochs']} epochs")


def latency(bench: Bench) -> None:
    """Measure from pixels to boxes, relative to the interpreter alone."""
    project, _ = bench.new("latency", "detection", bench.data / "bccd")
    flags = ["--input_size", "320,320", "--num_epochs", "2", "--head_epochs", "2"]
    bench.train(project, flags, limited=False)
    photos = sorted(map(str, (bench.data / "bccd" / "images").iterdir()))[:105]
    command = [sys.executable, "-c", LATENCY, str(project / "deploy/test/device"), *photos]
    ratios: dict[str, list[float]] = {"input": [], "photo": []}
    times: dict[str, list[float]] = {"input": [], "photo": []}
    for _ in range(ROUNDS):
        lines = [line.split() for line in run(command, project).stdout.splitlines()]
        for kind in ratios:
            alone, total, count = (
                [float(line[i]) for line in lines if line[0] == kind] for i in (1, 2, 3)
            )
            ratios[kind].append(statistics.median(total) / statistics.median(alone))
            times[kind].append(statistics.median(alone))
    print("| int8 detector, 320x320 | interpreter, ms | whole path / interpreter |")
    print("|---|---|---|")
    for kind, name in (("input", "pixels of the input"), ("photo", "a photo of 640x480")):
        print(f"| {name} | {spread(times[kind], 2)} | {spread(ratios[kind], 3)} |")
    print(f"boxes per photo: {statistics.mean(count):.1f}")


def loading(bench: Bench) -> None:
    """Load images with boxes and with classes, of the same files, and images with masks."""
    rates: dict[tuple[str, int], list[list[float]]] = {}
    bccd, camvid = bench.data / "bccd", bench.data / "camvid_small"
    table = bench.folder / "classes.csv"
    images = sorted((bccd / "images").iterdir())
    lines = [f"{path},{'ab'[i % 2]},train" for i, path in enumerate(images)]
    table.write_text("\n".join(["path,label,split", *lines]))
    kinds = {"classification": table, "detection": bccd, "segmentation": camvid}
    projects = {task: bench.new(f"load_{task}", task, data)[0] for task, data in kinds.items()}
    for _ in range(ROUNDS):
        for size in (224, 320):
            for task, project in projects.items():
                done = run([sys.executable, "-c", LOADING, str(size)], project)
                found = [float(value) for value in done.stdout.splitlines()[-1].split()]
                rates.setdefault((task, size), []).append(found)
    print(
        "| images per second, augmented | by CPU time | elapsed | / classification, by CPU time |"
    )
    print("|---|---|---|---|")
    for (task, size), rounds in rates.items():
        by_cpu, elapsed = [CORES * one[0] for one in rounds], [one[1] for one in rounds]
        reference = [CORES * one[0] for one in rates["classification", size]]
        ratio = statistics.median(by_cpu) / statistics.median(reference)
        print(f"| {task}, {size}x{size} | {spread(by_cpu)} | {spread(elapsed)} | {ratio:.2f} |")


def decoding(_: Bench) -> None:
    """Decode masks and keypoints from outputs."""
    import cv2
    import numpy as np

    from kerakit.device.keypoints import Decoder as KeypointDecoder
    from kerakit.device.segmentation import Decoder

    rng = np.random.default_rng(0)
    print("| decoding, ms per image | Kerakit | OpenCV and argmax | ratio |\n|---|---|---|---|")
    for rows, columns, classes, size in ((48, 64, 11, (480, 360)), (64, 64, 21, (1920, 1080))):
        scores = rng.normal(size=(rows, columns, classes)).astype(np.float32)
        decoder = Decoder({"classes": [str(i) for i in range(classes)]})
        prediction = decoder.decode(scores)

        def ours(decoder: Any = decoder, prediction: Any = prediction, size: Any = size) -> Any:
            return decoder.mask(prediction, size)

        def baseline(scores: Any = scores, size: Any = size) -> Any:
            return cv2.resize(scores, size, interpolation=cv2.INTER_LINEAR).argmax(-1)

        times = alternate([ours, baseline])
        ratio = statistics.median(times[0]) / statistics.median(times[1])
        name = f"{columns}x{rows} cells, {classes} classes, to {size[0]}x{size[1]}"
        print(f"| {name} | {spread(times[0], 1)} | {spread(times[1], 1)} | {ratio:.2f} |")
    outputs = {"heatmaps": rng.normal(size=(64, 64, 17)), "offsets": rng.normal(size=(64, 64, 34))}
    keypoints = KeypointDecoder({"classes": [str(i) for i in range(17)]})
    (found,) = alternate([lambda: keypoints.decode(outputs)])
    print(f"| 17 keypoints of 64x64 cells | {spread(found, 2)} | | |")


def alternate(functions: list[Callable[[], Any]]) -> list[list[float]]:
    """Return the milliseconds of CPU time of calls, alternating, after a warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(5 * ROUNDS + 2):
        for function, found in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            if number >= 2:
                found.append((time.process_time() - start) * 1e3)
    return times


def spread(values: list[float], digits: int = 0) -> str:
    """Return median, minimum and maximum."""
    low, middle, high = (f"{f(values):,.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


BENCHMARKS = (
    *(samples, detection, segmentation, multilabel, regression),
    *(latency, loading, decoding),
)


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = {one.__name__: one for one in BENCHMARKS}
    parser.add_argument("data", type=Path, help="folder with bccd/ and camvid_small/")
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"{', '.join(names)}")
    parser.add_argument(
        "--minutes", type=float, default=20, help="training time: CPU time over number of cores"
    )
    parser.add_argument("--flags", default="", help="further flags of train.py, in one argument")
    parser.add_argument("--keep", type=Path, help="new folder for the projects; default: temporary")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in names]:
        parser.error(f"no benchmark {', '.join(unknown)}; expected some of {', '.join(names)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(args.data.absolute(), args.minutes, folder, args.flags.split())
        for name in args.names or names:
            print(f"\n### {name}\n", flush=True)
            names[name](bench)


if __name__ == "__main__":
    main()
