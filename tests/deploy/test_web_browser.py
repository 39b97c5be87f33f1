"""demo.html in a real Chromium, from disk: pixels, predictions, camera, layout, requests."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from browser import Browser
from digits import Exported, load_program, open_bundle
from kerakit import deploy
from kerakit.deploy.web.command import add_demo
from kerakit.device.predict import read_photo
from kerakit.device.preprocessing import Preprocessing
from kerakit.update import TASKS
from projects import edit, make_task_project

pytestmark = pytest.mark.slow

READY = "document.body.classList.contains('ready')"
PHOTO, OTHER = (Image.fromarray(pixels) for pixels in load_sample_images().images)
RNG = np.random.default_rng(0)

Pixels = np.ndarray[Any, Any]


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, channels), dtype=np.uint8))


@pytest.fixture(scope="module")
def digit_page(exported_digits: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "deploy"
    shutil.copytree(exported_digits.folder, folder)
    return add_demo(folder)[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(digit_page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser of its own, with the page of a classifier of digits."""
    with Browser(tmp_path_factory.mktemp("opened")) as browser:
        browser.open(digit_page.as_uri())
        browser.wait(READY)
        yield browser


def status(browser: Browser) -> str:
    return str(browser.run("document.getElementById('status').textContent"))


# ------------------------------------------------------------------------------------------ pixels

POLICIES = (
    Preprocessing(),
    Preprocessing("letterbox"),
    Preprocessing("center_crop"),
    Preprocessing("letterbox", (0.1, 0.2, 0.8, 0.95), "gray"),
)
SIZES = ((32, 32), (224, 160))


def read_in_page(
    browser: Browser, data: bytes, policy: Preprocessing, size: tuple[int, int]
) -> Pixels:
    """Return the input that the page makes of a file."""
    read = browser.run(
        f"""(async () => {{
          const blob = new Blob([fromBase64("{base64.b64encode(data).decode()}")]);
          const bitmap = await openImage(blob);
          const image = readPixels(bitmap, bitmap.width, bitmap.height);
          const orientation = await jpegOrientation(blob);
          const {{ input }} = prepare(
            image, orientation, {json.dumps(asdict(policy))}, {json.dumps(size)});
          return Array.from(input);
        }})()"""
    )
    return np.array(read).reshape(size[1], size[0], 3)


def difference(
    browser: Browser, folder: Path, data: bytes, policy: Preprocessing, size: tuple[int, int]
) -> Pixels:
    path = folder / "photo"
    path.write_bytes(data)
    expected = read_photo(path, size[1], size[0], policy).astype(int)
    found: Pixels = np.abs(read_in_page(browser, data, policy, size) - expected)
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=lambda one: f"{one.resize} {one.color}")
@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_lossless_files_are_those_of_python(
    opened: Browser, tmp_path: Path, policy: Preprocessing, size: tuple[int, int]
) -> None:
    images = [PHOTO, noise(1, 1), noise(7, 5), noise(300, 2000), noise(900, 901), noise(2500, 1601)]
    for image in images:
        found = difference(opened, tmp_path, encode(image), policy, size)
        # Where areas of many pixels are averaged, sums of float32 depend on their order.
        assert found.max() <= 1, image.size
        assert (found > 0).mean() <= 0.001, image.size


def test_tasks_have_names_of_properties_of_objects(opened: Browser) -> None:
    outputs = '{"constructor.box_8": 1, "constructor.class_8": 2, ["__proto__"]: 3}'
    found = opened.run(f"Object.entries(splitOutputs({outputs}))")
    assert found == [["constructor", {"box_8": 1, "class_8": 2}], ["__proto__", 3]]


def test_pixels_of_other_formats(opened: Browser, tmp_path: Path) -> None:
    gray = PHOTO.convert("L")
    deep = Image.fromarray(RNG.integers(0, 65536, (64, 64), dtype=np.uint16))
    transparent = PHOTO.copy()
    transparent.putalpha(noise(*PHOTO.size).convert("L"))
    files = [
        *(encode(one) for one in (gray, deep, PHOTO.quantize(64), PHOTO.convert("1"), transparent)),
        *(encode(PHOTO, kind) for kind in ("BMP", "GIF", "WEBP")),
    ]
    for data in files:
        assert difference(opened, tmp_path, data, Preprocessing(), (64, 64)).max() <= 1
    stored = difference(opened, tmp_path, files[4], Preprocessing(), PHOTO.size)
    assert stored.max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_of_photos_differ_by_the_decoder_alone(
    opened: Browser, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encode(PHOTO, "JPEG", quality=92, exif=exif.tobytes())
    # At full size, both decoders are libjpeg-turbo; scaled down, the page averages blocks.
    found = difference(opened, tmp_path, data, Preprocessing("letterbox"), (640, 640))
    assert found.mean() < 0.01
    assert difference(opened, tmp_path, data, Preprocessing(), (150, 100)).mean() < 1


# ------------------------------------------------------------------------------------- predictions


def export_task(task: str, folder: Path) -> tuple[Path, list[Path]]:
    """Train and export a model of a task; return the export folder, and photos as PNG."""
    project = make_task_project(folder / "project", task, 80)
    spatial = task in ("segmentation", "keypoints", "detection")
    size = "64,96" if spatial else "32,48"
    edit(
        project.path / "config.py",
        "PREPROCESSING = Preprocessing()",
        'PREPROCESSING = Preprocessing(resize="letterbox")',
    )
    done = project.train("--input_size", size, "--batch_size", 8)
    assert done.code == 0, done.err
    done = project.deploy("--formats", "int8,web", "--max_drop", 1)
    assert done.code == 0, done.out + done.err
    folder = project.path / "deploy/test"
    values = json.loads((folder / "task.json").read_text())
    if task == "detection":  # trained for an epoch, it is sure of nothing
        for path in (folder / "task.json", folder / "device/task.json"):
            path.write_text(json.dumps({**values, "threshold": 0.001}))
        add_demo(folder)
    pngs = []
    for i, image in enumerate((PHOTO.resize((320, 214)), OTHER.crop((100, 0, 300, 400)))):
        pngs.append(project.path / f"{i}.png")
        image.save(pngs[-1])
    return folder, pngs


def numbers_close(one: Any, other: Any) -> bool:
    """Whether two predictions have the same labels, and numbers that differ in rounding alone."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(numbers_close, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(numbers_close(one[k], other[k]) for k in one)
    if isinstance(one, float | int) and not isinstance(one, bool):
        return bool(abs(one - other) <= 2e-4 * max(1, abs(one)) + 1e-9)
    return bool(one == other)


def predict_by_kerakit(folder: Path, paths: list[Path]) -> list[Any]:
    """Return the records of ``kerakit predict``."""
    exported = deploy.load_exported(folder)
    read, place = exported.read, exported.placement
    rows = deploy.predict_images(exported.predict, exported.task, read, paths, placement=place)
    return [row[1] for row in rows if isinstance(row, tuple)]


def predict_on_device(folder: Path, paths: list[Path]) -> list[Any]:
    """Return the records of the program in the device bundle, which takes any threshold."""
    program, model = load_program(), open_bundle(folder / "device")
    args = SimpleNamespace(draw=None, json=True, top=None)
    return [json.loads(program.predict(model, path, args))["predictions"] for path in paths]


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_those_of_python(task: str, browser: Browser, tmp_path: Path) -> None:
    folder, pngs = export_task(task, tmp_path)
    browser.requests.clear()
    browser.open((folder / "demo.html").as_uri(), 390, 844)
    browser.wait(f"{READY} || document.querySelector('.status.bad')")
    assert status(browser).startswith("Self-check passed"), status(browser)
    assert "largest difference 0 of 255; pixels equal" in status(browser)
    browser.choose("#files", *pngs)
    browser.wait("results.length >= 3")
    found = json.loads(browser.run("JSON.stringify(results.slice(1))"))
    predict = predict_on_device if task == "detection" else predict_by_kerakit
    for one, path, expected in zip(found, pngs, predict(folder, pngs), strict=True):
        assert one["path"] == path.name
        assert numbers_close(one["predictions"], expected), (one["predictions"], expected)
        assert one["predictions"]
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert [url.partition(":")[0] for url in browser.requests] == ["file"]
    shown = browser.run("document.querySelectorAll('.card canvas').length")
    assert shown == 3


# ---------------------------------------------------------------------------------------- the page


def test_the_camera_is_predicted_until_it_is_stopped(opened: Browser) -> None:
    opened.run("document.getElementById('camera').click()")
    opened.wait("document.querySelector('#camera-card .times')?.textContent.includes('frames/s')")
    assert "640 by 480 pixels" in opened.run("document.querySelector('#camera-card').innerText")
    rows = "document.querySelectorAll('#camera-card .rows li').length"
    assert opened.run(rows) == 5
    opened.run("document.getElementById('camera').click()")
    opened.wait("camera.stream === null && !document.getElementById('camera').disabled")
    assert opened.run("document.getElementById('camera').textContent") == "Use the camera"


def test_a_camera_that_is_refused_is_named(digit_page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path, "--deny-permission-prompts", fake_camera=False) as browser:
        browser.open(digit_page.as_uri())
        browser.wait(READY)
        browser.run("document.getElementById('camera').click()")
        message = browser.wait("document.getElementById('message').textContent")
    assert "choose photos instead" in message.lower()


def test_a_file_that_is_no_image_is_named(opened: Browser, tmp_path: Path) -> None:
    text, photo = tmp_path / "notes.png", tmp_path / "photo.png"
    text.write_text("no image")
    PHOTO.save(photo)
    before = opened.run("results.length")
    opened.choose("#files", text, photo)
    opened.wait(f"results.length >= {before + 2}")
    card = opened.run("document.querySelector('.card.failed').innerText")
    assert "notes.png" in card
    assert "cannot read the file as an image" in card
    assert opened.run("results.at(-1).predictions.length") == 1


def test_a_held_out_image_is_predicted_by_its_button(opened: Browser) -> None:
    before = opened.run("results.length")
    opened.run("document.querySelectorAll('.sample')[2].click()")
    opened.wait(f"results.length > {before}")
    assert opened.run("results.at(-1).path") == "Held-out image 3"


def test_a_dropped_photo_is_predicted_and_saved(opened: Browser, tmp_path: Path) -> None:
    opened.download_to(tmp_path)
    before = opened.run("results.length")
    opened.run(
        f"""(() => {{
          const dataTransfer = new DataTransfer();
          const bytes = fromBase64("{base64.b64encode(encode(PHOTO)).decode()}");
          dataTransfer.items.add(new File([bytes], "dropped.png"));
          document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer, bubbles: true }}));
        }})()"""
    )
    opened.wait(f"results.length > {before}")
    opened.run("document.getElementById('save').click()")
    saved = tmp_path / "predictions.json"
    for _ in range(100):
        if saved.exists():
            break
        time.sleep(0.05)
    last = json.loads(saved.read_text())[-1]
    assert last["path"] == "dropped.png"
    assert last["predictions"][0].keys() == {"label", "confidence"}


def test_other_outputs_fail_the_check(digit_page: Path, browser: Browser, tmp_path: Path) -> None:
    source = digit_page.read_text()
    start = source.index('id="golden_outputs">') + len('id="golden_outputs">')
    end = source.index("<", start)
    wrong = RNG.integers(0, 256, 16 * 10, dtype=np.uint8).tobytes()
    changed = tmp_path / "changed.html"
    replaced = base64.b64encode(gzip.compress(wrong)).decode()
    changed.write_text(source[:start] + replaced + source[end:])
    browser.open(changed.as_uri())
    browser.wait(READY)
    assert status(browser).startswith("Self-check FAILED")


def test_a_browser_without_webassembly_is_told(digit_page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.prepare("delete globalThis.WebAssembly")
        browser.open(digit_page.as_uri())
        assert "lacks WebAssembly" in browser.wait("document.querySelector('.bad')?.textContent")


def test_nothing_can_be_sent(opened: Browser) -> None:
    sent = opened.run(
        "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name + error.message)"
    )
    assert "TypeError" in sent
    assert all(not url.startswith("http") for url in opened.requests)


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_it_fits_the_window(browser: Browser, digit_page: Path, width: int, dark: bool) -> None:
    browser.open(digit_page.as_uri(), width, 844, dark=dark)
    browser.wait(f"{READY} && results.length")
    assert browser.run("document.documentElement.scrollWidth") == width
    small = "[...document.querySelectorAll('button, .drop')].filter((one) => !one.hidden && "
    small += "one.getBoundingClientRect().height < 40).length"
    assert browser.run(small) == 0
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(15, 19, 24)" if dark else "rgb(246, 247, 249)")
