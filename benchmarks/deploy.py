"""``deploy.py`` against a plain conversion: ``python benchmarks/deploy.py PROJECT RUN``.

PROJECT is a project, RUN a run in it, of a model at 224 by 224 pixels. The baseline loads the
model, calibrates TensorFlow's converter with 200 training images and writes the int8 file, without
any check. Each is a fresh process; both alternate over three rounds. Printed are medians, and the
int8 metrics of the report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROUNDS, IMAGES = 3, 200

BASELINE = """
import sys
import keras, numpy as np, tensorflow as tf
from pathlib import Path
model = keras.models.load_model(sys.argv[1], compile=False)
height, width = model.input_shape[1:3]
paths = sorted(p for p in Path(sys.argv[2]).rglob("*") if p.suffix in (".jpg", ".png"))
paths = paths[:: max(1, int(sys.argv[4]))]
def images():
    for path in paths[:int(sys.argv[5])]:
        image = keras.utils.load_img(path, target_size=(height, width))
        yield [np.asarray(image, np.float32)[None]]
model.export("exported", verbose=False)
converter = tf.lite.TFLiteConverter.from_saved_model("exported")
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = images
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.uint8
Path(sys.argv[3]).write_bytes(converter.convert())
"""


def timed(command: list[str], cwd: Path) -> float:
    """Return how long a command takes, in seconds."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Alternate both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path, help="folder of the project")
    parser.add_argument("run", help="path of the run in it, such as progress/test")
    args = parser.parse_args()
    project, run = args.project.absolute(), args.run
    data = json.loads((project / run / "config.json").read_text())["data_dir"]
    times: dict[str, list[float]] = {"baseline": [], "deploy.py": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        deploy = [
            sys.executable,
            "deploy.py",
            "--read_from",
            run,
            "--save_to",
            str(folder / "deployed"),
            "--overwrite",
        ]
        subprocess.run(
            [*deploy, "--formats", "keras"], cwd=project, check=True, capture_output=True
        )
        model = folder / "model.keras"
        (folder / "deployed" / "model.keras").rename(model)
        step = len([p for p in Path(data).rglob("*") if p.suffix in (".jpg", ".png")]) // IMAGES
        baseline = [
            sys.executable,
            "-c",
            BASELINE,
            str(model),
            data,
            str(folder / "baseline.tflite"),
            str(step),
            str(IMAGES),
        ]
        for _ in range(ROUNDS):
            times["baseline"].append(timed(baseline, folder))
            times["deploy.py"].append(timed(deploy, project))
        report = json.loads((folder / "deployed" / "report.json").read_text())
    print("| | seconds, median of 3 (min to max) |")
    print("|---|---|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |")
    rows = {row["format"]: row for row in report["formats"]}
    int8, float32 = rows["int8"], rows["float32"]
    measured = {key: int8[key] for key in ("metrics", "drop", "agreement")}
    print(f"int8: {json.dumps(measured)}")
    print(f"latency: int8 {int8['latency_ms']:.2f} ms, float32 {float32['latency_ms']:.2f} ms")


if __name__ == "__main__":
    main()
