"""Whatever is wrong with the feature cache, training has the same features, and says so once."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from faults import OPERATIONS, failing, file_size_limit
from kerakit.data import BatchGenerator, DataReader
from kerakit.inference import keras_predict_fn
from kerakit.training import backbone as backbone_module
from kerakit.training import features as features_module
from kerakit.training.features import FeatureDataset, FeatureStore
from projects import write_image

SIZE = (6, 4)
CODES = (
    *(errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENOENT),
    *(errno.ESTALE, errno.ENOTDIR, errno.EDQUOT),
)

Datasets = tuple[FeatureDataset, FeatureDataset]
Load = Callable[[Path], Datasets | None]


def read(datasets: Datasets | None) -> list[Any]:
    """Return features and targets of two epochs."""
    assert datasets is not None
    arrays = []
    for dataset, epoch in itertools.product(datasets, range(2)):
        dataset.epoch = epoch
        batches = [dataset[i] for i in range(len(dataset))]
        arrays += [np.concatenate(part) for part in zip(*batches, strict=True)]
    return arrays


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """A function that returns the features of 16 images, with a cache in a folder."""
    folder = tmp_path_factory.mktemp("photos")
    for name, i in itertools.product("ab", range(8)):
        write_image(folder / name / f"{i}.png", seed=i + 100 * (name == "b"), size=SIZE)
    reader = DataReader(folder, train_ratio=0.5)
    image = keras.Input((SIZE[1], SIZE[0], 3))
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    predict = keras_predict_fn(backbone)

    def load_datasets(cache: Path) -> Datasets | None:
        train, val = (BatchGenerator(reader, mode, 3, SIZE) for mode in ("train", "val"))
        return FeatureStore(backbone, cache).datasets(train, val, views=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone_module, "_fastest_predict_fn", lambda _: predict)
        yield load_datasets


@pytest.fixture(scope="module")
def expected(load: Load, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return read(load(tmp_path_factory.mktemp("cache")))


def check(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def remarks(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if not line.startswith("features (")]


@pytest.mark.parametrize("moment", ["filling", "opening", "reading"])
def test_every_operation_may_fail(
    moment: str,
    load: Load,
    expected: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, code in zip(OPERATIONS, itertools.cycle(CODES), strict=False):
        folder = tmp_path / name
        if moment != "filling":
            load(folder)
        datasets = load(folder) if moment == "reading" else None
        capsys.readouterr()
        with failing(name, folder, code):
            check(read(datasets or load(folder)), expected)
        assert len(remarks(capsys)) <= 1, name
        check(read(load(folder)), expected)


def test_one_remark_for_all_features_in_memory(
    load: Load, expected: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        check(read(load(folder)), expected)
        (line,) = remarks(capsys)
        assert line.startswith(f"features are held in memory: the cache {folder} cannot be written")


def test_a_complete_cache_needs_no_space(
    load: Load, expected: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path)
    with failing("shutil.disk_usage", tmp_path, errno.EIO):  # the free space is unknown
        check(read(load(tmp_path)), expected)
    assert remarks(capsys) == []


def test_images_are_used_where_neither_disk_nor_memory_has_room(
    load: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(features_module, "available_memory", lambda: 100)
    for operation in ("shutil.disk_usage", "pwritev"):
        with failing(operation, tmp_path, errno.ENOSPC):
            assert load(tmp_path) is None
        (line,) = remarks(capsys)
        assert line.startswith("training on images instead of cached features: the ")
        assert "memory is too small" in line
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def damage_files(folder: Path) -> Iterator[str]:
    """Damage the files of a cache, each time in another way; yield its name."""
    shutil.copytree(folder, whole := folder.with_name("whole"))
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert [path.suffix for path in names] == [".index", ".records"] * 3

    def flip(path: Path, position: int) -> None:
        content = bytearray(path.read_bytes())
        content[position % len(content)] ^= 1 << (position % 8)
        path.write_bytes(content)

    def replace_by_folder(path: Path, _: int) -> None:
        path.unlink()
        path.mkdir()

    def replace_by_link(path: Path, _: int) -> None:
        path.unlink()
        path.symlink_to("nowhere")

    changes: tuple[Callable[[Path, int], object], ...] = (
        lambda path, _: path.unlink(),
        lambda path, i: os.truncate(path, i % path.stat().st_size),
        lambda path, i: path.write_bytes(path.read_bytes() + bytes(i)),
        lambda path, i: path.write_bytes(bytes(i)),
        lambda path, _: path.chmod(0),
        *(flip, flip, flip, replace_by_folder, replace_by_link),
    )
    positions = np.random.default_rng(0).integers(1, 10_000, (len(changes), len(names)))
    for change, row in zip(changes, positions.tolist(), strict=True):
        for suffixes in ((".index",), (".records",), (".index", ".records")):
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
            for name, position in zip(names, row, strict=True):
                if name.suffix in suffixes:
                    change(folder / name, position)
            yield f"{change} {suffixes}"


def test_damaged_files(
    load: Load, expected: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file of a pair is missing; truncated and extended files; one bit; folders; links."""
    load(tmp_path / "cache")
    for damage in damage_files(tmp_path / "cache"):
        check(read(load(tmp_path / "cache")), expected)
        assert remarks(capsys) == [], damage


def test_a_folder_that_is_removed_or_replaced_while_it_is_used(
    load: Load, expected: list[Any], tmp_path: Path
) -> None:
    for number, replacement in enumerate(("nothing", "file", "folder", "other")):
        folder = tmp_path / str(number)
        datasets = load(folder)
        shutil.rmtree(folder)
        if replacement == "file":
            folder.touch()
        elif replacement == "folder":
            folder.mkdir(0o500)
        elif replacement == "other":
            load(folder)
        check(read(datasets), expected)


@pytest.mark.parametrize("size", [1, 40, 333, 1000])
def test_a_limit_on_the_size_of_files(
    size: int,
    load: Load,
    expected: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``ulimit -f`` stands for a disk that becomes full, at any byte."""
    with file_size_limit(size):
        datasets = load(tmp_path)
    check(read(datasets), expected)
    assert len(remarks(capsys)) <= 1
    check(read(load(tmp_path)), expected)
