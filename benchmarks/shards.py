"""Shards: ``python benchmarks/shards.py FOLDER --photos PHOTOS [--only NAME ...]``.

PHOTOS has a folder of JPEG files per class. Each measurement is a process of its own; those that
are compared take turns. Rates are images per second of two cores by CPU time (user + system, of all
threads), so that other programs on the machine change them little, and by the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = Path(__file__)
SIZE, BATCH = (224, 224), 32
LATENCY = 0.02
PIXELS, LARGE, COPIES = (4000, 3000), 48, 4
NAMES = ("local", "remote", "pack", "pack_large", "pack_resized", "resize", "million")


# ------------------------------------------------------------------- measurements, one per process


def read(place: str, batches: int) -> dict[str, float]:
    """Read batches of a dataset in shuffled order, without a cache."""
    from kerakit.data import BatchGenerator, DataReader

    reader = DataReader(place, train_ratio=0.999)
    generator = BatchGenerator(reader, "train", BATCH, SIZE)
    for i in range(4):
        generator[i]
    with _clock() as result:
        for i in range(4, 4 + batches):
            result["images"] += len(generator[i % len(generator)][0])
    generator.close()
    return result


def first_epoch(place: str, _: int) -> dict[str, float]:
    """Read all images of a dataset once by Kerakit, from the start of the process."""
    from kerakit.data import BatchGenerator, DataReader

    generator = BatchGenerator(DataReader(place, train_ratio=0.999), "train", BATCH, SIZE)
    with _clock() as result:
        for i in range(len(generator)):
            result["images"] += len(generator[i][0])
    generator.close()
    return result


def first_epoch_tf(place: str, _: int) -> dict[str, float]:
    """Read all images of a folder once by tf.data."""
    import tensorflow as tf

    def decode(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.cast(tf.image.resize(image, SIZE), tf.uint8)

    paths = sorted(map(str, Path(place).glob("*/*.jpg")))
    data = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths))
    data = data.map(decode, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    with _clock() as result:
        for images in data:
            result["images"] += len(images)
    return result


def decode_all(place: str, _: int) -> dict[str, float]:
    """Read and decode all images of a folder as ``kerakit pack`` does, without writing."""
    from concurrent.futures import ThreadPoolExecutor

    from kerakit.data.decode import decode_with_warning, read_bytes

    paths = sorted(Path(place).glob("*/*.jpg"))
    with _clock() as result, ThreadPoolExecutor() as pool:
        for _image in pool.map(lambda path: decode_with_warning(read_bytes(path), (32, 32)), paths):
            result["images"] += 1
    return result


def resize_all(place: str, _: int) -> dict[str, float]:
    """Decode, resize and encode all images of a folder as ``kerakit pack --max_side 512`` does."""
    from concurrent.futures import ThreadPoolExecutor

    import simplejpeg

    from kerakit.data.decode import decode_image, read_bytes

    def resize_one(path: Path) -> int:
        pixels = decode_image(read_bytes(path), (512, 384))
        return len(simplejpeg.encode_jpeg(pixels, 90, colorspace="RGB", colorsubsampling="420"))

    paths = sorted(Path(place).glob("*/*.jpg"))
    with _clock() as result, ThreadPoolExecutor() as pool:
        for size in pool.map(resize_one, paths):
            result["images"] += 1
            result["bytes"] = result.get("bytes", 0) + size
    return result


def start(place: str, _: int) -> dict[str, float]:
    """Open a dataset until the first batch could be read, and its record be written."""
    with _clock() as result:
        from kerakit.data import DataReader
        from kerakit.data.order import permutation

        reader = DataReader(place)
        for mode in ("train", "val", "test"):
            indices = reader.indices(mode)
        permutation(len(indices), 0, 0)
        result["images"] = len(reader)
        reader.image_path(len(reader) - 1)
    return result


@contextlib.contextmanager
def _clock() -> Iterator[dict[str, float]]:
    result = {"images": 0.0}
    before, started = os.times(), time.perf_counter()
    yield result
    after = os.times()
    result["seconds"] = time.perf_counter() - started
    result["cpu"] = after.user + after.system - before.user - before.system
    result["MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASURED = {
    one.__name__: one for one in (read, first_epoch, first_epoch_tf, decode_all, resize_all, start)
}


def measure(name: str, place: object, batches: int = 0) -> dict[str, float]:
    """Return the result of a measurement in a new process."""
    command = [sys.executable, str(HERE), str(place), "--measure", name, "--batches", str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def take_turns(runs: dict[str, tuple[Any, ...]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return the results of several measurements, one after another in each round."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(measure(*run))
    return results


def show(results: dict[str, list[dict[str, float]]]) -> None:
    """Print medians, and their ratios to the first measurement."""
    rates = {
        name: [median(2 * r["images"] / r["cpu"] for r in runs),
               median(r["images"] / r["seconds"] for r in runs)]
        for name, runs in results.items()
    }  # fmt: skip
    first = next(iter(rates.values()))
    for name, (cpu, wall) in rates.items():
        print(
            f"  {name}: {cpu:,.0f} images/s by CPU time ({cpu / first[0]:.2f}), {wall:,.0f} by the "
            f"clock ({wall / first[1]:.2f})",
            flush=True,
        )


# ------------------------------------------------------------------------------------ comparisons


def pack(data: Path, to: Path, *flags: str) -> None:
    """Run ``kerakit pack``."""
    command = [sys.executable, "-m", "kerakit", "pack", str(data), "--to", str(to), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def local(folder: Path, photos: Path, rounds: int) -> None:
    """Compare local shards with a folder of files."""
    pack(photos, folder / "served/shards")
    runs = {"folder of JPEG files": ("read", photos, 48)}
    runs["shards"] = ("read", folder / "served/shards", 48)
    show(take_turns(runs, rounds))


def remote(folder: Path, photos: Path, rounds: int) -> None:
    """Compare shards behind a server with 20 ms of latency with local ones."""
    pack(photos, folder / "served/shards")
    server = subprocess.Popen(
        [sys.executable, str(HERE), str(folder / "served"), "--measure", "server"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = (server.stdout or sys.stdin).readline().strip()
        runs: dict[str, tuple[Any, ...]] = {"local shards": ("read", folder / "served/shards", 48)}
        runs[f"https, {LATENCY * 1e3:.0f} ms"] = ("read", f"{url}/shards", 48)
        show(take_turns(runs, rounds))
    finally:
        server.kill()


def serve_folder(folder: str) -> None:
    """Serve a folder with range requests and latency."""
    sys.path.append(str(HERE.parents[1] / "tests/support"))
    from range_server import serve

    with serve(Path(folder), LATENCY) as server:
        print(server.url, flush=True)
        time.sleep(3600)


def pack_interrupted(folder: Path, photos: Path, rounds: int) -> None:
    """Pack 10,000 photos with two kills, and compare with decoding them alone."""
    data = folder / "photos10000"
    files = sorted(photos.glob("*/*.jpg"))
    for i in range(10_000):
        path = data / files[i % len(files)].parent.name / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.link(files[i % len(files)], path)
    _compare_packing(folder, data, rounds)


def pack_large_interrupted(folder: Path, photos: Path, rounds: int) -> None:
    """Pack 10,000 photos of 2 megapixels with two kills, and compare with decoding them alone."""
    data = make_large(folder / "photos2mp", photos, (1600, 1200), 100, 10_000)
    _compare_packing(folder, data, rounds)


def pack_resized_interrupted(folder: Path, photos: Path, rounds: int) -> None:
    """Pack 10,000 photos of 12 megapixels with --max_side 512 and two kills, or resize them."""
    data = make_large(folder / "photos12mp10000", photos, PIXELS, LARGE, 10_000)
    _compare_packing(folder, data, rounds, "resize_all", "--max_side", "512")


def make_large(data: Path, photos: Path, size: tuple[int, int], count: int, total: int) -> Path:
    """Write enlarged photos with noise, and links to them; return the folder."""
    from PIL import Image

    targets = []
    for i, path in enumerate(sorted(photos.glob("*/*.jpg"))[::10][:count]):
        target = data / path.parent.name / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        targets.append(target)
        if not target.exists():
            with Image.open(path) as image:
                large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            noise = Image.effect_noise(size, 12).convert("RGB")
            Image.blend(large, noise, 0.1).save(target, quality=90)
    for i in range(len(targets), total):
        target = targets[i % len(targets)]
        link = target.with_name(f"{target.stem}-{i // len(targets)}.jpg")
        if not link.exists():
            os.link(target, link)
    return data


def _compare_packing(
    folder: Path, data: Path, rounds: int, alone: str = "decode_all", *flags: str
) -> None:
    """Compare packing with ``flags`` with a measurement of the codec alone."""
    sizes = [path.stat().st_size for path in data.glob("*/*.jpg")]
    codec: list[float] = []
    packing: list[float] = []
    whole: list[float] = []
    for _ in range(rounds):
        measured = measure(alone, data)
        codec.append(measured["cpu"])
        total = measured.get("bytes", sum(sizes))
        for kills, into in ((2, packing), (0, whole)):
            to = folder / "interrupted"
            shutil.rmtree(to, ignore_errors=True)
            into.append(_pack_with_kills(data, to, kills, total, *flags))
    check = [sys.executable, "-m", "kerakit", "pack", str(folder / "interrupted"), "--check"]
    print(" ", subprocess.run(check, capture_output=True, text=True, check=True).stdout.strip())
    rate = [2 * len(sizes) / median(seconds) for seconds in (codec, packing, whole)]
    print(
        f"  images of {sum(sizes) / len(sizes) / 1e3:,.0f} KB; codec alone: {rate[0]:,.0f} "
        "images/s by CPU time; packing, killed twice: "
        f"{rate[1]:,.0f} ({rate[1] / rate[0]:.2f}); packing without kills: {rate[2]:,.0f} "
        f"({rate[2] / rate[0]:.2f})",
        flush=True,
    )


def _pack_with_kills(data: Path, to: Path, kills: int, total: float, *flags: str) -> float:
    """Return the CPU seconds of all starts. Kills come when a part of the shards is written."""
    command = [sys.executable, "-m", "kerakit", "pack", str(data), "--to", str(to), *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        size = 0
        while size < (kill + 1) / (kills + 1) * total and process.poll() is None:
            time.sleep(0.05)
            size = sum(path.stat().st_size for path in to.rglob("*tar") if path.exists())
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def resize(folder: Path, photos: Path, rounds: int) -> None:
    """Compare shards of 512 pixels with tf.data on photos of 12 megapixels."""
    data = make_large(folder / "photos12mp", photos, PIXELS, LARGE, LARGE * COPIES)
    shutil.rmtree(folder / "shards512", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pack(data, folder / "shards512", "--max_side", "512")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(path.stat().st_size for path in data.rglob("*.jpg")) / (LARGE * COPIES * 1e6)
    packing = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"  photos of {size:.1f} MB; packing: {2 * LARGE * COPIES / packing:,.0f} images/s by CPU "
        "time"
    )
    runs: dict[str, tuple[Any, ...]] = {"tf.data, originals": ("first_epoch_tf", data)}
    runs["originals"] = ("first_epoch", data)
    runs["shards of 512 pixels"] = ("first_epoch", folder / "shards512")
    show(take_turns(runs, rounds))


def million(folder: Path, photos: Path, rounds: int) -> None:
    """Open the index of a million images in 3,000 shards; the shards do not exist."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    from kerakit.data.shards.index import INDEX, METADATA, PLACE, VERSION

    n = 1_000_000
    names = sorted(path.name for path in photos.iterdir() if path.is_dir())
    rng = np.random.default_rng(0)
    order = rng.permutation(n)
    columns: dict[str, Any] = dict.fromkeys(PLACE)
    columns |= {name: pa.nulls(n, PLACE[name]) for name in ("split", "group", "sample_weight")}
    numbers = {
        "shard": order // 333,
        "offset": order % 333 * 26_000,
        "size": rng.integers(2**15, size=n),
    }
    numbers |= {"crc32": rng.integers(2**32, size=n), "width": np.full(n, 400)}
    numbers |= {name: np.full(n, 400) for name in ("height", "original_width", "original_height")}
    columns |= {name: pa.array(value).cast(PLACE[name]) for name, value in numbers.items()}
    columns["path"] = pa.array([f"{names[i % len(names)]}/{i:08d}.jpg" for i in range(n)])
    columns["label"] = pa.array([names[i % len(names)] for i in range(n)])
    metadata = {"version": VERSION, "kind": "classes", "format": "classes", "max_side": None}
    metadata |= {"label_columns": {"label": "label"}, "mask_columns": [], "sets": {}}
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(metadata)})
    (folder / "million").mkdir(exist_ok=True)
    parquet.write_table(table, folder / "million" / INDEX, compression="zstd", row_group_size=2**16)
    size = (folder / "million" / INDEX).stat().st_size / 1e6
    runs = [measure("start", folder / "million") for _ in range(rounds)]
    values = {key: median(run[key] for run in runs) for key in runs[0]}
    print(
        f"  {values['images']:,.0f} images, index of {size:.0f} MB: {values['cpu']:.1f} s of CPU "
        f"time, {values['seconds']:.1f} s by the clock, {values['MB']:,.0f} MB",
        flush=True,
    )


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder for shards and photos, 3 GB; they are kept")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files per class")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison")
    parser.add_argument("--measure", choices=[*MEASURED, "server"], help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure == "server":
        serve_folder(args.folder)
    elif args.measure:
        print(json.dumps(MEASURED[args.measure](args.folder, args.batches)))
    else:
        if args.photos is None:
            parser.error("the following arguments are required: --photos")
        folder = Path(args.folder)
        folder.mkdir(parents=True, exist_ok=True)
        packing = pack_interrupted, pack_large_interrupted, pack_resized_interrupted
        runs = dict(zip(NAMES, (local, remote, *packing, resize, million), strict=True))
        for name in args.only:
            print(f"{name}: {runs[name].__doc__}", flush=True)
            runs[name](folder, args.photos, args.rounds)


if __name__ == "__main__":
    main()
