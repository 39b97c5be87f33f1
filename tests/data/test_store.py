"""Whatever file operation fails, a cache returns the same pixels, and says so once."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from faults import OPERATIONS, failing
from kerakit.data import read_image
from kerakit.data.cache import DiskCache
from kerakit.data.store import MAX_OPEN_FILES, ORPHAN_SECONDS, ArrayStore, digest
from projects import write_image

SIZE = (20, 16)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / "images" / f"{i}.png", seed=i) for i in range(6)]


@pytest.mark.parametrize(
    "code",
    [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EMFILE],
)
@pytest.mark.parametrize("is_filled", [False, True])
@pytest.mark.parametrize("moment", ["opening", "reading"])
def test_every_operation_may_fail(
    moment: str,
    is_filled: bool,
    code: int,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = [read_image(path, SIZE) for path in images]
    for name in OPERATIONS:
        folder = tmp_path / f"cache-{name}"
        if is_filled:
            for path in images:
                DiskCache(folder, SIZE)(path)
        cache = DiskCache(folder, SIZE) if moment == "reading" else None
        with failing(name, folder, code):
            cache = DiskCache(folder, SIZE) if cache is None else cache
            for _ in range(2):
                for path, image in zip(images, expected, strict=True):
                    np.testing.assert_array_equal(cache(path), image)
        assert len(capsys.readouterr().out.splitlines()) <= 1, name
        again = DiskCache(folder, SIZE)
        for path, image in zip(images, expected, strict=True):
            np.testing.assert_array_equal(again(path), image)


def test_a_folder_that_is_no_cache(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, a path below a file, folders where files should be, files that are no records."""
    (tmp_path / "file").touch()
    store = DiskCache(tmp_path / "odd", SIZE)
    store(images[0])
    (index,) = (tmp_path / "odd").glob("*/*.index")
    (index.parent / "folder.index").mkdir()
    (index.parent / "folder.records").mkdir()
    (index.parent / "text.index").write_text("text" * 100)
    (index.parent / "text.records").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "odd"):
        cache = DiskCache(folder, SIZE)
        for path in images:
            np.testing.assert_array_equal(cache(path), read_image(path, SIZE))
        warnings = capsys.readouterr().out.count("WARNING")
        assert warnings == (folder.name != "odd")


def test_a_folder_that_is_removed_while_it_is_used(images: list[Path], tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", SIZE)
    for path in images[:3]:
        cache(path)
    shutil.rmtree(tmp_path / "cache")
    for path in images:
        np.testing.assert_array_equal(cache(path), read_image(path, SIZE))
    later = DiskCache(tmp_path / "cache", SIZE)
    for path in images:
        np.testing.assert_array_equal(later(path), read_image(path, SIZE))


def test_thousands_of_pairs_need_few_descriptors(tmp_path: Path) -> None:
    value = np.arange(8, dtype=np.uint8)
    for i in range(MAX_OPEN_FILES + 40):
        ArrayStore(tmp_path, 8).write(digest(i), value + i)
    before = len(os.listdir("/proc/self/fd"))
    store = ArrayStore(tmp_path, 8)
    assert len(os.listdir("/proc/self/fd")) - before <= MAX_OPEN_FILES
    wrong: list[int] = []

    def read_all() -> None:
        found = np.empty(8, np.uint8)
        wrong.extend(
            i
            for i in range(MAX_OPEN_FILES + 40)
            if not store.read(digest(i), found) or not np.array_equal(found, value + i)
        )

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_half_a_pair_is_removed_once_it_is_old(tmp_path: Path) -> None:
    """A file whose other half was removed, and what a kill left behind."""
    for name in ("old.records", "old.index", "new.records", "new.index"):
        kind = tmp_path / name.split(".")[1]
        kind.mkdir(exist_ok=True)
        (kind / name).touch()
        if name.startswith("old"):
            age = time.time() - ORPHAN_SECONDS - 1
            os.utime(kind / name, (age, age))
        (kind / "of the user.txt").touch()
    for kind in (tmp_path / "records", tmp_path / "index"):
        assert len(ArrayStore(kind, 8)) == 0
        assert {path.name for path in kind.iterdir()} == {f"new.{kind.name}", "of the user.txt"}
