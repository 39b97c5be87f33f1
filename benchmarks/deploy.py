"""``deploy.py`` with all its checks against a bare conversion: ``python benchmarks/deploy.py PROJECT RUN``.

PROJECT is a folder that ``kerakit new`` made, RUN a run in it, of a model at 224 by 224. The bare script does what is usual:
it loads the model, gives TensorFlow's converter 200 training images and writes the int8 file. Each in a fresh process, in turn,
three rounds. Printed are medians, and what the report says of int8.
"""

from __future__ import annotations

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

BARE = """
import sys
import keras, numpy as np, tensorflow as tf
from pathlib import Path
model = keras.models.load_model(sys.argv[1], compile=False)
height, width = model.input_shape[1:3]
paths = sorted(p for p in Path(sys.argv[2]).rglob("*") if p.suffix in (".jpg", ".png"))[:: max(1, int(sys.argv[4]))]
def images():
    for path in paths[:int(sys.argv[5])]:
        yield [np.asarray(keras.utils.load_img(path, target_size=(height, width)), np.float32)[None]]
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
    """Take turns, and print the table."""
    project, run = Path(sys.argv[1]).absolute(), sys.argv[2]
    data = json.loads((project / run / "config.json").read_text())["data_dir"]
    times: dict[str, list[float]] = {"bare": [], "deploy.py": []}
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        deploy = [
            sys.executable,
            "deploy.py",
            "--read_from",
            run,
            "--save_to",
            str(made / "deployed"),
            "--overwrite",
        ]
        subprocess.run(
            [*deploy, "--formats", "keras"], cwd=project, check=True, capture_output=True
        )
        model = made / "model.keras"
        (made / "deployed" / "model.keras").rename(model)
        step = len([p for p in Path(data).rglob("*") if p.suffix in (".jpg", ".png")]) // IMAGES
        bare = [
            sys.executable,
            "-c",
            BARE,
            str(model),
            data,
            str(made / "bare.tflite"),
            str(step),
            str(IMAGES),
        ]
        for _ in range(ROUNDS):
            times["bare"].append(timed(bare, made))
            times["deploy.py"].append(timed(deploy, project))
        report = json.loads((made / "deployed" / "report.json").read_text())
    print("| | seconds, median of 3 (min to max) |")
    print("|---|---|")
    for name, seconds in times.items():
        print(
            f"| {name} | {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |"
        )
    rows = {row["format"]: row for row in report["formats"]}
    int8, float32 = rows["int8"], rows["float32"]
    print(f"int8: {json.dumps(int8['measured'])}")
    print(f"latency: int8 {int8['latency_ms']:.2f} ms, float32 {float32['latency_ms']:.2f} ms")


if __name__ == "__main__":
    main()
