"""Shards at remote addresses: fsspec's memory, and a server with range requests and faults."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerakit import Config, DataPath, Run, UserError
from kerakit.address import as_place, as_url
from kerakit.data import (
    BatchGenerator,
    DataReader,
    MaskReader,
    Mosaic,
    ObjectReader,
    open_cache,
)
from kerakit.data.check import check_images, open_dataset
from kerakit.data.ready import write_ready_data
from kerakit.data.recorded import record_split, restore_reader
from kerakit.data.shards import plan, storage
from kerakit.data.shards.commands import check_packed
from kerakit.data.shards.index import open_shards
from kerakit.data.shards.storage import Storage
from kerakit.data.split import MODES
from kerakit.deploy.bundle import read_as_device
from kerakit.device.preprocessing import STRETCH
from kerakit.errors import ImageError, JobError
from kerakit.new_project import new_project
from kerakit.tasks import Detection, Segmentation
from packing import assert_same, pack, pack_without_index
from range_server import RangeServer, serve


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    """An empty address."""
    import fsspec

    yield f"memory://{tmp_path.name}/shards"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def served_once(
    photos_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RangeServer]:
    folder = tmp_path_factory.mktemp("served")
    pack(photos_once, folder / "shards")
    with serve(folder) as server:
        yield server


@pytest.fixture
def served(served_once: RangeServer, monkeypatch: pytest.MonkeyPatch) -> RangeServer:
    monkeypatch.setattr(storage, "_FIRST_DELAY", 0.001)
    served_once.requests.clear()
    served_once.fault, served_once.ignores_ranges = lambda *_: 0, False
    served_once.hides_length = served_once.compresses = False
    return served_once


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MAX_IMAGES", 25)


def test_an_address_is_a_dataset(photos_once: Path, memory: str) -> None:
    assert f"in {memory}." in pack(photos_once, memory)
    for address in (memory, Path(memory), f"{memory}/"):
        assert_same(DataReader(photos_once), DataReader(address))
    assert "60 images, all as in" in check_packed(Path(memory))
    assert "is complete" in pack(photos_once, memory)
    with pytest.raises(UserError, match="other data or settings"):
        pack(photos_once, memory, max_side=9)
    pack(photos_once, memory, max_side=9, overwrite=True)
    assert DataReader(memory).image_path(0).image_size == (9, 7)
    names = Storage(memory).names()
    assert names == ["index.parquet", *(f"shard-{i:06d}.tar" for i in range(3))]


def test_killed_packing_continues(photos_once: Path, memory: str) -> None:
    pack_without_index(photos_once, memory)
    place = Storage(memory)
    assert ".pack/plan.json" in place.names()
    place.remove("shard-000001.tar")
    assert "kept: 2" in pack(photos_once, memory)
    assert_same(DataReader(photos_once), DataReader(memory))


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_masks_and_boxes(tmp_path: Path, memory: str, task: str) -> None:
    data = write_ready_data(task, tmp_path / "data", 12)
    pack(data, memory, task)
    reader = MaskReader if task == "segmentation" else ObjectReader
    assert_same(reader(data), reader(memory))
    first, second = (check_images(open_dataset(Path(place)), 2) for place in (data, memory))
    assert {f.kind for f in first} == {f.kind for f in second}


def test_damage_is_named(photos_once: Path, memory: str) -> None:
    pack(photos_once, memory)
    shards = open_shards(memory)
    assert shards is not None
    place = shards.image(3)
    content = bytearray(shards.storage.read(place.shard))
    content[place.offset + 9] ^= 1
    shards.storage.write(place.shard, bytes(content))
    with pytest.raises(UserError, match=r"cannot read image memory://.*CRC-32 differs"):
        DataReader(memory).image_path(3).read_bytes()
    with pytest.raises(JobError, match="1 faults"):
        check_packed(Path(memory))


def test_one_range_request_per_image(served: RangeServer, photos_once: Path) -> None:
    reader = DataReader(f"{served.url}/shards")
    served.requests.clear()
    with_files = BatchGenerator(DataReader(photos_once), batch_size=7, input_size=(16, 16))
    generator = BatchGenerator(reader, batch_size=7, input_size=(16, 16))
    for i in range(len(generator)):
        for one, other in zip(generator.load_batch(i), with_files.load_batch(i), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(served.requests) == len(generator.index)
    assert all(wanted.startswith("bytes=") for _, wanted in served.requests)
    assert len(set(served.requests)) == len(served.requests)


def test_a_cache_requests_each_image_once(served: RangeServer, tmp_path: Path) -> None:
    for kind in ("ram", "disk"):
        reader = DataReader(f"{served.url}/shards")
        cache = open_cache(kind, (16, 16), tmp_path)
        served.requests.clear()
        for epoch in range(3):
            generator = BatchGenerator(reader, batch_size=7, input_size=(16, 16), read=cache)
            generator.epoch = epoch
            for i in range(len(generator)):
                generator.load_batch(i)
        assert len(served.requests) == len(generator.index)


def test_requests_that_fail_are_repeated(served: RangeServer, photos_once: Path) -> None:
    seen: set[tuple[str, str]] = set()

    def fail_first(path: str, wanted: str) -> int:
        is_first = (path, wanted) not in seen
        seen.add((path, wanted))
        return 503 if is_first else 0

    served.fault = fail_first
    assert_same(DataReader(photos_once), DataReader(f"{served.url}/shards"))


def test_a_server_that_fails_is_an_error(served: RangeServer) -> None:
    reader = DataReader(f"{served.url}/shards")
    served.requests.clear()
    served.fault = lambda *_: 503
    generator = BatchGenerator(reader, batch_size=4, input_size=(16, 16))
    with pytest.raises(UserError, match=r"cannot read image http://.*shard-0.*503"):
        generator.load_batch(0)
    assert len(served.requests) == 4 * storage.ATTEMPTS
    served.fault = lambda *_: 404
    with pytest.raises(UserError, match=r"cannot read image http://"):
        generator.load_batch(1)


@pytest.mark.parametrize("hides_length", [False, True])
def test_a_server_without_ranges_is_an_error(served: RangeServer, hides_length: bool) -> None:
    reader = DataReader(f"{served.url}/shards")
    served.requests.clear()
    served.ignores_ranges, served.hides_length = True, hides_length
    with pytest.raises(UserError, match="ignores the range"):
        reader.image_path(0).read_bytes()
    assert len(served.requests) == 1


def test_why_there_is_no_index(served: RangeServer) -> None:
    """fsspec says of every failure that there is no such file."""
    for status, reason in (
        *((404, "there is no index.parquet in http://"), (500, "cannot read http://.*500")),
        (403, r"cannot read http://.*denies access \(403\)"),
    ):
        served.fault = lambda *_, status=status: status
        with pytest.raises(UserError, match=reason):
            DataReader(f"{served.url}/shards")
    with pytest.raises(UserError, match=r"cannot read http://localhost:9/.*Cannot connect to"):
        DataReader("http://localhost:9/shards")


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_denies_access_is_asked_once(served: RangeServer, status: int) -> None:
    reader = DataReader(f"{served.url}/shards")
    served.requests.clear()
    served.fault = lambda *_: status
    with pytest.raises(UserError, match=rf"image http://.*denies access \({status}\)"):
        reader.image_path(0).read_bytes()
    assert len(served.requests) == 1


def test_a_batch_is_read_again_after_errors(served: RangeServer) -> None:
    """The errors of its other images are not those of the next attempt."""
    generator = BatchGenerator(
        DataReader(f"{served.url}/shards"), batch_size=4, input_size=(16, 16)
    )
    served.fault = lambda *_: 403
    with pytest.raises(UserError, match="denies access"):
        generator.load_batch(0)
    served.fault = lambda *_: 0
    assert len(generator.load_batch(0)[0]) == 4


def test_content_that_was_fetched_incompletely_is_requested_again(
    served: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of an image which several mosaics of a batch need."""
    member = DataReader(f"{served.url}/shards").image_path(0)
    shards = open_shards(f"{served.url}/shards")
    assert shards is not None
    with monkeypatch.context() as patch:
        patch.setattr(shards.storage, "read_many", lambda wanted: [b"cut" for _ in wanted])
        shards.fetch([member] * 3)
    served.requests.clear()
    for _ in range(3):
        assert len(member.read_bytes()) == member.size
    assert len(served.requests) == 3
    assert (member.shard, member.offset) not in shards._ahead


def test_a_server_that_compresses(served: RangeServer, photos_once: Path) -> None:
    """A range of compressed content is not that of the content."""
    reader = DataReader(f"{served.url}/shards")
    served.compresses = True
    for i in (0, 3):
        assert (
            reader.image_path(i).read_bytes() == DataReader(photos_once).image_path(i).read_bytes()
        )


def test_addresses_without_shards(served: RangeServer, tmp_path: Path) -> None:
    for address in (f"{served.url}/other", f"memory://{tmp_path.name}/nothing"):
        with pytest.raises(UserError, match=r"there is no index.parquet in .*://.*packed"):
            DataReader(address)
    with pytest.raises(UserError, match=r"unknown://x.*Protocol not known"):
        DataReader("unknown://x/y")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3://bucket/photos needs a package .*(?i:install) s3fs"):
        DataReader("s3://bucket/photos")


def test_the_program_of_the_device_reads_members(photos_once: Path, memory: str) -> None:
    pack(photos_once, memory)
    one, other = DataReader(photos_once), DataReader(memory)
    np.testing.assert_array_equal(
        read_as_device(one.image_path(2), (16, 16), STRETCH),
        read_as_device(other.image_path(2), (16, 16), STRETCH),
    )


def test_errors_of_the_device_name_the_member(tmp_path: Path, memory: str) -> None:
    """An image that training reads, and the program of the device does not."""
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/b").mkdir()
    for name in ("a/1", "a/2", "b/1", "b/2"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"data/{name}.png")
    pack(tmp_path / "data", memory)
    member = DataReader(memory).image_path(0)
    broken = replace(member, size=40, crc32=zlib.crc32(member.read_bytes()[:40]))
    with pytest.raises(ImageError, match=r"image memory://.*shard-000000.tar \(a/1.png\)"):
        read_as_device(broken, (16, 16), STRETCH)


def test_messages_have_the_address(photos_once: Path, memory: str) -> None:
    pack(photos_once, memory)
    reader = DataReader(Path(memory))
    assert str(reader.data) == memory == f"{as_place(Path(memory))}"
    with pytest.raises(UserError, match=f"{memory} \\(.*\\) has no boxes"):
        ObjectReader(Path(memory))
    with pytest.raises(UserError, match=f"{memory} \\(.*\\) has no masks"):
        MaskReader(memory)


def test_storages_that_read_blocks_read_exact_ranges(photos_once: Path, tmp_path: Path) -> None:
    """Such as hf://, whose files fetch blocks of 5 MB ahead."""
    import fsspec
    from fsspec.spec import AbstractBufferedFile

    fetched: list[tuple[int, int]] = []

    class File(AbstractBufferedFile):
        def _fetch_range(self, start: int, end: int) -> bytes:
            fetched.append((start, end))
            return Path("/", self.path).read_bytes()[start:end]

    class Blocks(fsspec.AbstractFileSystem):
        protocol = "blocks"

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            size = Path("/", self._strip_protocol(path)).stat().st_size
            return {"name": self._strip_protocol(path), "size": size, "type": "file"}

        def _open(self, path: str, mode: str = "rb", **options: Any) -> File:
            return File(self, path, mode, **options)

    fsspec.register_implementation("blocks", Blocks, clobber=True)
    pack(photos_once, tmp_path / "shards")
    reader = DataReader(f"blocks:/{tmp_path}/shards")
    generator = BatchGenerator(reader, batch_size=8, input_size=(16, 16))
    fetched.clear()
    generator.load_batch(0)
    sizes = [reader.image_path(i).size for i in generator.epoch_order(0)[:8].tolist()]
    assert sorted(stop - start for start, stop in fetched) == sorted(sizes)


def test_masks_are_fetched_with_their_images(tmp_path: Path) -> None:
    data = write_ready_data("segmentation", tmp_path / "data", 8)
    pack(data, tmp_path / "served/shards")
    with serve(tmp_path / "served") as server:
        reader = MaskReader(f"{server.url}/shards")
        task = Segmentation(reader.class_names)
        generator = BatchGenerator(reader, batch_size=4, input_size=(32, 32), task=task)
        server.requests.clear()
        generator.load_batch(0)
        assert len(set(server.requests)) == len(server.requests) == 8


def test_the_images_of_mosaics_are_fetched_with_their_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_ready_data("detection", tmp_path / "data", 16)
    pack(data, tmp_path / "served/shards", "detection")
    together: list[int] = []
    read_many = Storage.read_many

    def counted(self: Storage, ranges: Any) -> Any:
        together.append(len(ranges))
        return read_many(self, ranges)

    monkeypatch.setattr(Storage, "read_many", counted)
    with serve(tmp_path / "served") as server:
        batches = []
        for place in (data, f"{server.url}/shards"):
            reader = ObjectReader(place)
            task = Detection(reader.class_names)
            generator = BatchGenerator(
                reader, batch_size=8, input_size=(32, 32), task=task, mosaic=Mosaic(1)
            )
            server.requests.clear()
            together.clear()
            batches.append(generator.load_batch(0))
        assert together == [len(set(server.requests))] == [len(server.requests)]
        # Those that are in several mosaics are requested once, and none stays in memory.
        assert together[0] < 8 * 4
        shards = open_shards(f"{server.url}/shards")
        assert shards is not None
        assert (shards._ahead, shards._ahead_bytes) == ({}, 0)
    assert batches[0][0].tobytes() == batches[1][0].tobytes()


def test_a_project_and_a_run_have_the_address(
    photos_once: Path, memory: str, tmp_path: Path
) -> None:
    class Flags(Config):
        data_dir: DataPath = Path("data")

    pack(photos_once, memory)
    new_project(tmp_path / "project", "classification", Path(memory))
    assert f"DATA_DIR = '{memory}'" in (tmp_path / "project/config.py").read_text()
    flags = Flags.parse([f"--data_dir={memory}"])
    flags.save(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["data_dir"] == memory
    assert as_url(Flags.read(tmp_path / "config.json").data_dir) == memory
    # A run that was trained on the files: its split is that of the shards, and the reverse.
    run = Run(tmp_path / "run")
    run.path.mkdir()
    files = DataReader(photos_once, seed=3)
    trained = SimpleNamespace(
        data_dir=photos_once,
        seed=3,
        class_names=files.class_names,
        split=record_split(files, run),
    )
    for place in (None, Path(memory)):
        restored = restore_reader(DataReader, run, trained, place)
        for mode in MODES:
            np.testing.assert_array_equal(restored.indices(mode), files.indices(mode))
