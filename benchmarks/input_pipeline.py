"""Throughput of input pipelines: ``python benchmarks/input_pipeline.py PHOTOS [--json FILE]``.

PHOTOS has one folder of JPEG files per class. Each measurement is a fresh process; both sides of a
comparison alternate, one warm-up round and five rounds. The table has medians with minimum and
maximum, and the ratio of medians. Comparisons with torch are skipped where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROUNDS = 5
# Enough that starting threads and tracing weigh little: an epoch takes seconds.
MIN_PHOTOS = 3000
LOADERS = Path(__file__).with_name("loaders.py")

# Name, arguments of loaders.py for Kerakit and for the baseline, and the target ratio.
COMPARISONS = [
    (
        "first epoch, no augmentation, against image_dataset_from_directory",
        "kerakit",
        "tfdata",
        1.3,
    ),
    ("the same, against a thread pool", "kerakit", "thread_pool", 0.95),
    (
        "flip, affine, brightness, contrast, against Keras layers in tf.data",
        "kerakit jitter=1",
        "tfdata jitter=1",
        4.0,
    ),
    (
        "12-megapixel photos, against image_dataset_from_directory",
        "kerakit LARGE",
        "tfdata LARGE",
        3.0,
    ),
    ("12-megapixel photos, against a thread pool", "kerakit LARGE", "thread_pool LARGE", 0.95),
    (
        "later epochs from the disk cache, against tf.data .cache(file)",
        "kerakit cache=disk warm=1",
        "tfdata cache=disk warm=1",
        1.2,
    ),
    (
        "later epochs, cached and augmented, against uncached",
        "kerakit cache=disk jitter=1 warm=1",
        "kerakit jitter=1 warm=1",
        1.5,
    ),
    (
        "against torch's DataLoader, 2 workers, augmented",
        "kerakit jitter=1",
        "torch jitter=1 workers=2",
        1.2,
    ),
    (
        "against torch's DataLoader, 1 worker, augmented",
        "kerakit jitter=1",
        "torch jitter=1 workers=1",
        1.2,
    ),
    (
        "against torch's DataLoader, 3 workers, augmented",
        "kerakit jitter=1",
        "torch jitter=1 workers=3",
        1.2,
    ),
]


def measure(words: str, folder: Path, large: Path) -> float:
    """Return images per second of one fresh process."""
    loader, *options = words.split()
    data = large if "LARGE" in options else folder
    command = [
        sys.executable,
        str(LOADERS),
        loader,
        str(data),
        *(word for word in options if word != "LARGE"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["images_per_s"])


def compare(ours: str, theirs: str, folder: Path, large: Path) -> tuple[list[float], list[float]]:
    """Alternate both; the first round is a warm-up."""
    rounds = [
        (measure(ours, folder, large), measure(theirs, folder, large)) for _ in range(ROUNDS + 1)
    ][1:]
    return [a for a, _ in rounds], [b for _, b in rounds]


def multiply(folder: Path, target: Path) -> Path:
    """Copy the photos under several names until there are MIN_PHOTOS of them."""
    photos = sorted(folder.glob("*/*.jpg"))
    for turn in range(-(-MIN_PHOTOS // len(photos))):
        for path in photos:
            (target / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.parent.name / f"{turn}-{path.name}")
    return target


def make_large(folder: Path, target: Path, count: int = 80) -> Path:
    """Enlarge photos to 12 megapixels (4000 by 3000)."""
    from PIL import Image

    for n, path in enumerate(
        sorted(folder.glob("*/*.jpg"))[:: max(1, len(list(folder.glob("*/*.jpg"))) // count)]
    ):
        where = target / f"class{n % 2}"
        where.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(
                where / f"{n}.jpg", quality=90
            )
    return target


def summarize(values: list[float]) -> str:
    """Return "median (min to max)"."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def main() -> None:
    """Run every comparison and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder with one folder of JPEG files per class")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument("--only", default="", help="only comparisons whose name contains this")
    args = parser.parse_args()
    results = []
    print(
        "| images/s, median of 5 (min to max) | Kerakit | baseline | ratio | target |\n"
        "|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        photos = multiply(args.photos, Path(temporary) / "photos")
        large = make_large(args.photos, Path(temporary) / "large")
        for name, ours, theirs, target in COMPARISONS:
            if args.only not in name:
                continue
            if theirs.startswith("torch") and importlib.util.find_spec("torch") is None:
                print(f"| {name} | skipped: torch is not installed | | | |")
                continue
            a, b = compare(ours, theirs, photos, large)
            ratio = statistics.median(a) / statistics.median(b)
            results.append(
                {"name": name, "kerakit": a, "baseline": b, "ratio": ratio, "target": target}
            )
            print(
                f"| {name} | {summarize(a)} | {summarize(b)} | {ratio:.2f} | {target} |", flush=True
            )
    if args.json:
        machine = f"{platform.machine()}, {len(results)} comparisons"
        report = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "results": results,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
