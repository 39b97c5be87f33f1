"""Annotations of 100,000 images with a million boxes: ``python benchmarks/readers.py FOLDER``.

Writes the dataset in each format (1 GB, empty images), reads each in a fresh process, and
prints seconds, CPU seconds, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

IMAGES, BOXES, CLASSES = 100_000, 10, 80
WIDTH, HEIGHT = 640, 480
FORMATS = ("coco", "yolo", "voc", "labelme", "kitti", "csv")


def write(folder: Path, kind: str) -> None:
    """Write ``IMAGES`` empty images with ``BOXES`` random boxes each."""
    draw = random.Random(0)
    names = [f"class{i:02d}" for i in range(CLASSES)]
    for name in ("images", "annotations" if kind == "coco" else "labels"):
        (folder / name).mkdir(parents=True)
    images, annotations, rows = [], [], ["image,width,height,xmin,ymin,xmax,ymax,label"]
    for i in range(IMAGES):
        name = f"{i:012d}"
        (folder / f"images/{name}.jpg").touch()
        boxes = [
            (draw.randrange(CLASSES), draw.randrange(500), draw.randrange(400), 50, 60)
            for _ in range(BOXES)
        ]
        if kind == "coco":
            images.append({"id": i, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            annotations += [
                {
                    "id": i * BOXES + n,
                    "image_id": i,
                    "category_id": c + 1,
                    "bbox": box,
                    "iscrowd": 0,
                }
                for n, (c, *box) in enumerate(boxes)
            ]
        elif kind == "yolo":
            lines = [
                f"{c} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} "
                f"{w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
                for c, x, y, w, h in boxes
            ]
            (folder / f"labels/{name}.txt").write_text("".join(lines))
        elif kind == "csv":
            start = f"images/{name}.jpg,{WIDTH},{HEIGHT}"
            rows += [f"{start},{x},{y},{x + w},{y + h},{names[c]}" for c, x, y, w, h in boxes]
        elif kind == "kitti":
            lines = [
                f"{names[c]} 0.00 0 0 {x}.0 {y}.0 {x + w}.0 {y + h}.0 0 0 0 0 0 0 0\n"
                for c, x, y, w, h in boxes
            ]
            (folder / f"labels/{name}.txt").write_text("".join(lines))
        elif kind == "labelme":
            shapes = [
                {
                    "label": names[c],
                    "points": [[x, y], [x + w, y + h]],
                    "shape_type": "rectangle",
                }
                for c, x, y, w, h in boxes
            ]
            content = {"imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes}
            (folder / f"labels/{name}.json").write_text(json.dumps(content))
        else:
            objects = [
                f"\t<object>\n\t\t<name>{names[c]}</name>\n\t\t<pose>Unspecified</pose>\n"
                "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
                f"\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n\t\t\t<xmax>{x + w}</xmax>\n"
                f"\t\t\t<ymax>{y + h}</ymax>\n\t\t</bndbox>\n\t</object>\n"
                for c, x, y, w, h in boxes
            ]
            size = (
                f"\t<size>\n\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t</size>\n"
            )
            text = f"<annotation>\n{size}{''.join(objects)}</annotation>\n"
            (folder / f"labels/{name}.xml").write_text(text)
    if kind == "coco":
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations/instances.json").write_text(json.dumps(content))
    if kind == "csv":
        (folder / "boxes.csv").write_text("\n".join(rows))
    if kind == "yolo":
        (folder / "classes.txt").write_text("\n".join(names))


def read(folder: Path) -> None:
    """Read a dataset, and print the figures as one line of JSON."""
    from kerakit.data import ObjectReader

    wall, cpu = time.perf_counter(), time.process_time()
    reader = ObjectReader(folder)
    figures = {
        "format": reader.format.name,
        "images": len(reader),
        "boxes": sum(len(reader.target(i)["boxes"]) for i in range(0, len(reader), 100)) * 100,
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": _peak_memory(),
    }
    print(json.dumps(figures))


def _peak_memory() -> int:
    """Return the peak memory of this process in MB; that of getrusage includes its parent's."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    """Write what is missing, and read each format."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the datasets; they are kept")
    parser.add_argument("--format", choices=FORMATS, help="read this format in this process")
    args = parser.parse_args()
    if args.format:
        read(args.folder / args.format)
        return
    for kind in FORMATS:
        if not (args.folder / kind).exists():
            write(args.folder / kind, kind)
        command = [sys.executable, __file__, str(args.folder), "--format", kind]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
