"""The caches change no pixel, and survive kills, full disks, and each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, read_image
from kerakit.data import cache as cache_module
from kerakit.data.cache import DiskCache, RamCache, open_cache
from projects import write_image

SIZE = (20, 16)
IMAGE_BYTES = 20 * 16 * 3


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / "images" / f"{i}.png", seed=i) for i in range(100)]


def record_decoding(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of the files that are decoded from here on."""
    decoded: list[Path] = []

    def record(path: Path, *how: Any) -> Any:
        decoded.append(path)
        return read_image(path, *how)

    monkeypatch.setattr(cache_module, "read_image", record)
    return decoded


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_every_image_is_decoded_once_and_comes_back_the_same(
    kind: Any, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(kind, SIZE, tmp_path / "cache")
    assert cache is not None
    decoded = record_decoding(monkeypatch)
    for _ in range(3):
        for path in images:
            image = cache(path)
            np.testing.assert_array_equal(image, read_image(path, SIZE))
            image[:] = 0  # what a caller does to it is the caller's business
    assert decoded == images


def test_a_later_run_decodes_nothing(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = DiskCache(tmp_path / "cache", SIZE)
    for path in images:
        first(path)
    decoded = record_decoding(monkeypatch)
    later = DiskCache(tmp_path / "cache", SIZE)
    for path in images:
        np.testing.assert_array_equal(later(path), read_image(path, SIZE))
    assert decoded == []


def test_an_image_that_changed_is_decoded_anew(images: list[Path], tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", SIZE)
    before = cache(images[0])
    write_image(images[0], seed=999)
    os.utime(images[0], ns=(0, 12345))
    assert not np.array_equal(cache(images[0]), before)
    images[0].unlink()
    with pytest.raises(UserError, match="No such file"):
        cache(images[0])


def test_sizes_do_not_mix(images: list[Path], tmp_path: Path) -> None:
    for size in (SIZE, (16, 20), (8, 8)):
        cache = DiskCache(tmp_path / "cache", size)
        np.testing.assert_array_equal(cache(images[0]), read_image(images[0], size))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_as_many_images_as_fit_are_kept(
    kind: Any, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 30 * IMAGE_BYTES + 900  # for 30 entries of the index
    cache = RamCache(SIZE, limit) if kind == "ram" else DiskCache(tmp_path / "cache", SIZE, limit)
    for path in images:
        cache(path)
    decoded = record_decoding(monkeypatch)
    for path in images:
        np.testing.assert_array_equal(cache(path), read_image(path, SIZE))
    assert len(decoded) == 70
    if kind == "disk":
        assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.records")) <= limit


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_off_no_wrong_pixels_come_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The files are cut at any length, as a crash of the machine may leave them."""
    folder = tmp_path_factory.mktemp("cut")
    paths = [write_image(folder / f"{i}.png", seed=i) for i in range(5)]
    cache = DiskCache(folder / "cache", SIZE)
    for path in paths:
        cache(path)
    for file in sorted((folder / "cache").rglob("*.*")):
        os.truncate(file, data.draw(st.integers(0, file.stat().st_size)))
        if data.draw(st.booleans()) and file.suffix == ".records":
            os.truncate(file, 5 * IMAGE_BYTES)  # blocks that were never written read as zeros
    damaged = DiskCache(folder / "cache", SIZE)
    for path in paths:
        np.testing.assert_array_equal(damaged(path), read_image(path, SIZE))


FILL = """
import sys, time
from pathlib import Path
from kerakit.data.cache import DiskCache
folder, images = Path(sys.argv[1]), sorted(Path(sys.argv[2]).glob("*.png"))
cache = DiskCache(folder, (20, 16))
for path in images:
    cache(path)
    print(path.name, flush=True)
    time.sleep(float(sys.argv[3]))
"""


def test_a_kill_loses_little_and_breaks_nothing(images: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path / "cache"), str(images[0].parent), "0.005"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(90):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cache = DiskCache(tmp_path / "cache", SIZE)
    assert 90 <= len(cache) <= 100
    for path in images:
        np.testing.assert_array_equal(cache(path), read_image(path, SIZE))


def test_two_runs_share_a_store(images: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path / "cache"), str(images[0].parent), "0"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    cache = DiskCache(tmp_path / "cache", SIZE)
    assert len(cache) == 100
    for path in images:
        np.testing.assert_array_equal(cache(path), read_image(path, SIZE))


def test_a_full_disk_ends_the_caching_and_not_the_run(images: list[Path], tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({20 * IMAGE_BYTES + 7},) * 2)\n"
    )
    command = [
        sys.executable,
        "-c",
        limited + FILL,
        str(tmp_path / "cache"),
        str(images[0].parent),
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("WARNING") == 1
    cache = DiskCache(tmp_path / "cache", SIZE)
    assert len(cache) == 20
    for path in images:
        np.testing.assert_array_equal(cache(path), read_image(path, SIZE))


def test_threads_share_a_cache(images: list[Path], tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", SIZE)
    wrong: list[Path] = []

    def read_all(order: int) -> None:
        wrong.extend(
            path
            for path in images[::order]
            if not np.array_equal(cache(path), read_image(path, SIZE))
        )

    threads = [threading.Thread(target=read_all, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cache) == 100


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_cache_changes_no_batch(kind: Any, photos: Path, tmp_path: Path) -> None:
    reader = DataReader(photos)
    plain = BatchGenerator(reader, "train", 8, SIZE)
    cache = open_cache(kind, SIZE, tmp_path / "cache")
    assert cache is not None
    cached = BatchGenerator(reader, "train", 8, SIZE, read=cache)
    for epoch in range(2):
        plain.epoch = cached.epoch = epoch
        for i in range(len(plain)):
            for a, b in zip(plain[i], cached[i], strict=True):
                np.testing.assert_array_equal(a, b)
    plain.close()
    cached.close()
    assert len(cache) == len(cached.index)
