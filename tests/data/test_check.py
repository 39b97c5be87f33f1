"""``kerakit check`` finds, lists and excludes problems; no file of the user is changed."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance
from sklearn.datasets import load_sample_image

from kerakit import UserError
from kerakit.data import DataReader, data_warnings
from kerakit.data.check import check_images
from kerakit.data.decode import decode_image
from kerakit.data.exclusions import check_list
from kerakit.data.findings import write_findings
from kerakit.data.similar import (
    MAX_COLOR_DISTANCE,
    MAX_DHASH_DISTANCE,
    MAX_PHASH_DISTANCE,
    find_near_duplicates,
    fingerprint,
)
from kerakit.files import sha256
from projects import Project, write_image


def kerakit(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kerakit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def photo(left: int, top: int) -> Image.Image:
    return Image.fromarray(load_sample_image("flower.jpg")).crop((left, top, left + 200, top + 150))


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A given split with some of everything that is wrong."""
    folder = tmp_path / "data"
    for mode, base in (("train", 0), ("val", 100), ("test", 200)):
        for hue, name in enumerate(("apple", "pear")):
            for i in range(4):
                write_image(folder / mode / name / f"{i}.png", base + 10 * hue + i, (64, 48))
    photo(0, 0).save(folder / "test/apple/photo.jpg", quality=92)
    ImageEnhance.Brightness(photo(0, 0)).enhance(1.1).resize((150, 112)).save(
        folder / "train/apple/again.jpg", quality=70
    )
    photo(300, 200).save(folder / "train/pear/burst1.jpg", quality=92)
    photo(301, 200).save(folder / "train/pear/burst2.jpg", quality=85)
    shutil.copy(folder / "train/apple/0.png", folder / "train/apple/copy.png")
    shutil.copy(folder / "val/apple/1.png", folder / "train/apple/leaked.png")
    shutil.copy(folder / "train/apple/3.png", folder / "train/pear/other.png")
    (folder / "train/pear/broken.jpg").write_bytes(b"\xff\xd8 no")
    (folder / "train/pear/phone.heic").write_bytes(b"")
    return folder


EXPECTED = {
    ("train/pear/broken.jpg", "unreadable", True),
    ("train/apple/3.png", "conflicting labels", True),
    ("train/pear/other.png", "conflicting labels", True),
    ("train/apple/leaked.png", "leak", True),
    ("train/apple/again.jpg", "leak", True),
    ("train/apple/copy.png", "duplicate", True),
    ("train/pear/burst2.jpg", "near duplicate", False),
    ("train/pear/phone.heic", "unsupported format", False),
}


def test_it_finds_what_is_wrong_and_nothing_else(split: Path) -> None:
    for threads in (1, 4):
        findings = check_images(DataReader(split), threads)
        assert {(finding.key, finding.kind, finding.exclude) for finding in findings} == EXPECTED
    details = {finding.key: finding.detail for finding in findings}
    assert details["train/apple/again.jpg"] == "test/apple/photo.jpg, test"
    assert details["train/apple/leaked.png"] == "val/apple/1.png, val"


def test_the_command_writes_the_list_and_changes_no_image(split: Path, tmp_path: Path) -> None:
    before = {
        path: (sha256(path), path.stat().st_mtime_ns) for path in split.rglob("*") if path.is_file()
    }
    done = kerakit("check", split, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {
        path: (sha256(path), path.stat().st_mtime_ns) for path in split.rglob("*") if path.is_file()
    } == before
    for _, kind, _ in EXPECTED:
        assert kind in done.stdout
    reader = DataReader(split, exclusions=tmp_path / "check.csv")
    whole = DataReader(split)
    excluded = {key for key, _, exclude in EXPECTED if exclude}
    assert reader.num_excluded == len(excluded) == 6
    assert {whole.key(i) for i in range(len(whole))} - {
        reader.key(i) for i in range(len(reader))
    } == excluded
    targets = {
        whole.key(i): (whole.target(i), mode)
        for mode in ("train", "val", "test")
        for i in whole.indices(mode)
    }
    assert all(targets[reader.key(i)] == (reader.target(i), "test") for i in reader.indices("test"))


def test_a_closed_pipe_ends_the_command(split: Path, tmp_path: Path) -> None:
    """The table is printed by rich, which has an exit code of its own for it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kerakit", "check", str(split)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_the_list_may_be_edited(split: Path, tmp_path: Path) -> None:
    path = tmp_path / "check.csv"
    write_findings(path, check_images(DataReader(split), 2))
    path.write_text(
        path.read_text().replace(
            'train/apple/copy.png,duplicate,"train/apple/0.png, train",yes', "gone.png,x,,YES"
        )
    )
    assert DataReader(split, exclusions=path).num_excluded == 5
    path.write_text("path,exclude\na.png,maybe\n")
    with pytest.raises(UserError, match="maybe"):
        DataReader(split, exclusions=path)
    path.write_text("something else")
    with pytest.raises(UserError, match="kerakit check"):
        DataReader(split, exclusions=path)


def test_edits_of_the_list_survive_another_check(photos: Path, tmp_path: Path) -> None:
    broken = photos / "apple" / "03.png"
    broken.write_bytes(b"no image")
    shutil.copy(photos / "apple" / "00.png", photos / "apple" / "copy.png")
    path = tmp_path / "check.csv"
    assert kerakit("check", photos, cwd=tmp_path).returncode == 0
    text = path.read_text().replace(",exclude", ",exclude,note").replace("yes", "no,mine", 1)
    # As a spreadsheet writes it.
    path.write_text((text + "pear/05.png,blurred,,YES,\n").replace(",", ";"), "utf-8-sig")
    done = kerakit("check", photos, cwd=tmp_path)
    assert "2 edits of the earlier list are kept" in done.stdout, done.stderr
    rows = path.read_text().splitlines()
    assert rows[0] == "path,finding,detail,exclude,note"
    assert "apple/03.png,unreadable,not an image of a supported format,no,mine" in rows
    assert "pear/05.png,blurred,,YES," in rows
    reader = DataReader(photos, exclusions=path)
    assert reader.recipe()["exclusions"] == ["apple/copy.png", "pear/05.png"]
    broken.unlink()
    (photos / "apple" / "copy.png").unlink()
    assert kerakit("check", photos, cwd=tmp_path).returncode == 0
    rows = [row for row in path.read_text().splitlines()[1:] if ",tiny," not in row]
    assert rows == ["pear/05.png,blurred,,YES,"]


@pytest.mark.parametrize("content", ["DATA_DIR = 1\n", "path,label\na.png,cat\n", "", b"\xff\0"])
def test_a_file_of_the_user_is_not_replaced(
    photos: Path, tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "config.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for target in (path, "/dev/null"):
        with pytest.raises(UserError, match="not written by kerakit check"):
            check_list(Path(target))
    assert path.read_bytes() == before
    assert Path("/dev/null").is_char_device()


def test_an_empty_class_is_a_finding(photos: Path, tmp_path: Path) -> None:
    (photos / "plum").mkdir()
    (photos / "apple" / "03.png").write_bytes(b"no image")
    done = kerakit("check", photos, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "empty class" in done.stdout
    rows = (tmp_path / "check.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:3]] == [
        ["plum", "empty class"],
        ["apple/03.png", "unreadable"],
    ]


def test_a_class_without_held_out_images_is_named(tmp_path: Path) -> None:
    for i in range(12):
        write_image(tmp_path / "data/apple" / f"{i}.png", i)
    write_image(tmp_path / "data/pear/0.png", 100)
    done = kerakit("check", tmp_path / "data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "class 'pear': no validation images, so the accuracy" in done.stdout
    assert "class 'pear': no test images, so the accuracy" in done.stdout


def test_odd_names_survive_the_list(tmp_path: Path) -> None:
    names = ['it\'s "a", b.png', "line\nbreak.png", "größe.png", os.fsdecode(b"not_\xff_utf8.png")]
    for seed, name in enumerate([*names, "good.png"]):
        write_image(tmp_path / "photos" / "a" / name, seed, (64, 48))
        write_image(tmp_path / "photos" / "b" / name, 50 + seed, (64, 48))
    for name in names:
        (tmp_path / "photos" / "a" / name).write_bytes(b"broken")
    done = kerakit("check", "photos", "--save_to", "list.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reader = DataReader(tmp_path / "photos", exclusions=tmp_path / "list.csv")
    assert {reader.key(i) for i in range(len(reader))} == {
        "a/good.png",
        *(f"b/{name}" for name in [*names, "good.png"]),
    }


def test_a_project_leaves_out_what_its_list_says(project: Project, photos: Path) -> None:
    (photos / "apple" / "03.png").write_bytes(b"no image")
    done = kerakit("check", photos, cwd=project.path)
    assert done.returncode == 0, done.stderr
    source = "from reader import DataReader; print(DataReader().num_excluded, len(DataReader()))"
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "59"], done.stderr
    reader = DataReader(photos, exclusions=project.path / "check.csv")
    assert "excluded" in data_warnings(reader)[0]


def test_when_all_images_of_a_class_are_left_out_it_says_so(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "pear").iterdir():
        path.write_bytes(b"no image")
    assert kerakit("check", photos, cwd=tmp_path).returncode == 0
    with pytest.raises(UserError, match=r"'pear'.*30 images are excluded"):
        DataReader(photos, exclusions=tmp_path / "check.csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "gone"], "no folder gone"),
        (["check", "photos", "--save_to", "no/such/x.csv"], "cannot write"),
        (["check", "photos", "--save_to", "photos"], "cannot write"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    tmp_path: Path, photos: Path, words: list[str], said: str
) -> None:
    done = kerakit(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_interrupt_writes_nothing(tmp_path: Path) -> None:
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8))
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        big.save(tmp_path / "photos" / name / "0.png", compress_level=1)
        for i in range(1, 1000):
            os.link(tmp_path / "photos" / name / "0.png", tmp_path / "photos" / name / f"{i}.png")
    command = [sys.executable, "-m", "kerakit", "check", "photos"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "checking" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "error: interrupted.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def thumbnail(image: Image.Image) -> Any:
    import io

    file = io.BytesIO()
    image.save(file, "PNG")
    return decode_image(file.getvalue(), (32, 32))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_near_duplicates_are_those_within_the_bits_and_the_first_is_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prints = rng.integers(0, 2**64, (60, 9), dtype=np.uint64)
    classes = rng.integers(0, 2, 60)
    for copy in range(20, 60):
        prints[copy] = prints[copy % 20]
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            prints[copy, 0] ^= np.uint64(1 << int(bit))
        for bit in rng.choice(256, rng.integers(0, 60), replace=False):
            prints[copy, 1 + bit // 64] ^= np.uint64(1 << int(bit % 64))
        colors = prints[copy, 5:].view(np.uint8)
        colors[0] = np.clip(int(colors[0]) + rng.integers(-25, 25), 0, 255)
    bits = np.bitwise_count(prints[:, None] ^ prints[None])
    colors = np.ascontiguousarray(prints[:, 5:]).view(np.uint8).astype(int)
    near = (bits[..., 0] <= MAX_PHASH_DISTANCE) & (bits[..., 1:5].sum(-1) <= MAX_DHASH_DISTANCE)
    near &= np.abs(colors[:, None] - colors[None]).max(-1) <= MAX_COLOR_DISTANCE
    is_same = classes[:, None] == classes[None]
    for found, pairs in zip(
        find_near_duplicates(prints, classes), (near & is_same, near & ~is_same), strict=True
    ):
        np.testing.assert_array_equal(found, (pairs | np.eye(60, dtype=bool)).argmax(axis=1))


def test_color_counts_and_no_image_is_excluded_for_one_of_another_class(tmp_path: Path) -> None:
    classes = {"ripe": (200, 30, 30), "unripe": (60, 150, 40), "mislabeled": (200, 30, 30)}
    for mode in ("train", "test"):
        for number, (name, color) in enumerate(classes.items()):
            for i in range(2):
                image = Image.new("RGB", (96, 96), "white")
                x = 14 + 20 * i + number
                ImageDraw.Draw(image).ellipse((x, 20 + x, x + 44, 62 + i), fill=color)
                path = tmp_path / "data" / mode / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, compress_level=9 if mode == "train" else 1)
    findings = check_images(DataReader(tmp_path / "data"), 1)
    pairs = {(f.key.split("/")[1], f.detail.split("/")[1], f.kind, f.exclude) for f in findings}
    assert ("ripe", "mislabeled", "similar in another class", False) in pairs or (
        ("mislabeled", "ripe", "similar in another class", False) in pairs
    )
    assert all(a == b for a, b, _, exclude in pairs if exclude)
    assert not any("unripe" in (a, b) and a != b for a, b, *_ in pairs)
    assert ("unripe", "unripe", "leak", True) in pairs


def test_flat_images_are_not_compared(tmp_path: Path) -> None:
    for name, color in (("red", (200, 0, 0)), ("green", (0, 200, 0)), ("gray", (90, 90, 90))):
        for i in range(10):
            path = tmp_path / name / f"{i}.jpg"
            path.parent.mkdir(exist_ok=True)
            noise = np.random.default_rng(i).integers(0, 6, (64, 64, 3))
            pixels = np.array(color) + 3 * i + noise
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    assert check_images(DataReader(tmp_path), 1) == []


def test_a_picture_is_known_again_after_saving_and_scaling_and_others_are_not() -> None:
    pictures = [photo(left, top) for left in (0, 200, 400) for top in (0, 150, 270)]
    changed = [
        [fingerprint(thumbnail(change(picture))) for picture in pictures]
        for change in (
            lambda p: p,
            lambda p: p.resize((100, 75)),
            lambda p: ImageEnhance.Brightness(p).enhance(1.1),
            lambda p: ImageEnhance.Contrast(p).enhance(0.9),
        )
    ]
    prints = np.array([bits for part in changed for bits in part], np.uint64)
    same, other = find_near_duplicates(prints, np.zeros(len(prints), np.int32))
    np.testing.assert_array_equal(same, np.tile(np.arange(9), 4))
    np.testing.assert_array_equal(other, np.arange(len(prints)))


def test_a_damaged_later_frame_does_not_end_the_check(photos: Path) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "lime", "blue")]
    for kind in ("gif", "tiff"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        data = file.getvalue()
        for i, at in enumerate(range(len(data) // 3, len(data), len(data) // 40)):
            flipped = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
            (photos / "apple" / f"{i}-flipped.{kind}").write_bytes(flipped)
            (photos / "apple" / f"{i}-cut.{kind}").write_bytes(data[:at])
    found = check_images(DataReader(photos), 1)
    assert "damaged frame" in {finding.kind for finding in found if not finding.exclude}
