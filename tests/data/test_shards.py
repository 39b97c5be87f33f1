"""Shards: the same images and annotations as the dataset, kills, damage, other readers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from kerakit import UserError
from kerakit.data import DataReader
from kerakit.data.shards import plan, writer
from kerakit.data.shards.commands import check_packed
from kerakit.data.shards.encode import encode_sample
from kerakit.data.shards.index import INDEX, METADATA, open_shards
from kerakit.errors import JobError
from packing import assert_same, pack, pack_without_index
from projects import write_image, write_photos


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MAX_IMAGES", 7)


@pytest.mark.usefixtures("small_shards")
def test_a_folder_of_classes(photos_once: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in photos_once.rglob("*"))
    message = pack(photos_once, tmp_path / "shards")
    assert "Packed 60 images into 9 shards" in message
    assert sorted((path, path.stat().st_mtime_ns) for path in photos_once.rglob("*")) == before
    one, other = DataReader(photos_once), DataReader(tmp_path / "shards")
    assert_same(one, other)
    assert one.recipe() == other.recipe()
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        INDEX,
        *(f"shard-{i:06d}.tar" for i in range(9)),
    ]
    assert check_packed(tmp_path / "shards").endswith("60 images, all as in index.parquet.")


def test_any_tar_program_reads_shards(photos_once: Path, tmp_path: Path) -> None:
    pack(photos_once, tmp_path / "shards")
    shards = open_shards(tmp_path / "shards")
    assert shards is not None
    images: dict[str, bytes] = {}
    with tarfile.open(tmp_path / "shards/shard-000000.tar") as tar:
        names = tar.getnames()
        for member in tar:
            assert member.name.count(".") == 1
            content = tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".json"):
                label = json.loads(content)
                assert (photos_once / label["path"]).read_bytes() == images[member.name[:9]]
                assert label["label"] == label["path"].split("/")[0]
            else:
                images[member.name[:9]] = content
    assert len(images) == 60
    # WebDataset groups neighbors of one name.
    assert [name[:9] for name in names[::2]] == [name[:9] for name in names[1::2]]
    assert (tmp_path / "shards/shard-000000.tar").read_bytes()[257:265] == b"ustar\x0000"


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("at", [1, 25, 59, "save", "index"])
def test_a_killed_pack_continues(
    photos_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int | str
) -> None:
    class KilledError(BaseException):
        pass

    pack(photos_once, tmp_path / "whole")
    count = 0

    def encode(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise KilledError
        return encode_sample(*args)

    def save(*args: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(writer, "encode_sample", encode)
        if at == "save":
            patch.setattr(writer, "_save", save)
        if at == "index":
            patch.setattr(writer, "remove_record", save)
        with pytest.raises(KilledError):
            pack(photos_once, tmp_path / "shards")
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "shards").glob("*.tar")
        if (tmp_path / f"shards/.pack/{path.stem[-6:]}.parquet").exists()
    }
    # What a kill leaves half-written.
    (tmp_path / "shards/.0a1b2c3d.shard-000001.tar").write_bytes(b"half")
    pack(photos_once, tmp_path / "shards")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert names - ({".0a1b2c3d.shard-000001.tar"} if at == "index" else set()) == set(whole)
    assert {name: (tmp_path / "shards" / name).read_bytes() for name in whole} == whole
    # Again: nothing is written.
    assert "is complete" in pack(photos_once, tmp_path / "shards")


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_of_an_earlier_start_is_written_again(
    photos_once: Path, tmp_path: Path
) -> None:
    pack_without_index(photos_once, tmp_path / "shards")
    shard = tmp_path / "shards/shard-000002.tar"
    content = bytearray(shard.read_bytes())
    content[530] ^= 1
    shard.write_bytes(content)
    assert "kept: 8" in pack(photos_once, tmp_path / "shards")
    assert "all as in" in check_packed(tmp_path / "shards")


def test_faults_of_shards(photos_once: Path, tmp_path: Path) -> None:
    pack(photos_once, tmp_path / "shards")
    reader = DataReader(tmp_path / "shards")
    shards = open_shards(tmp_path / "shards")
    assert shards is not None
    place = shards.image(5)
    shard = tmp_path / "shards/shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[place.offset + place.size // 2] ^= 4
    shard.write_bytes(content)
    with pytest.raises(JobError, match="1 faults"):
        check_packed(tmp_path / "shards")
    with pytest.raises(UserError, match=rf"{place.name}\): the shard is damaged .its CRC-32"):
        DataReader(tmp_path / "shards").image_path(5).read_bytes()
    assert reader.image_path(6).read_bytes()
    shard.write_bytes(content[: place.offset + 10])
    with pytest.raises(JobError, match="faults"):
        check_packed(tmp_path / "shards")
    with pytest.raises(UserError, match="the shard is truncated"):
        reader.image_path(59).read_bytes()
    shard.unlink()
    with pytest.raises(JobError, match="faults"):
        check_packed(tmp_path / "shards")


@pytest.mark.parametrize("at", [10, -10, -500, 0.5])
def test_a_damaged_index_is_an_error(photos_once: Path, tmp_path: Path, at: float) -> None:
    pack(photos_once, tmp_path / "shards")
    index = tmp_path / "shards" / INDEX
    content = bytearray(index.read_bytes())
    position = int(at * len(content)) if isinstance(at, float) else at
    content[position:] = content[position + 5 :]
    index.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|no folder|version"):
        DataReader(tmp_path / "shards")


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    first, second = (write_image(photos / f"apple/0{i}.jpg", i) for i in (0, 1))
    for name in ("apple/00.png", "apple/01.png"):
        (photos / name).unlink()
    good = first.read_bytes()
    first.write_bytes(good[: len(good) // 2])
    whole, _ = second.read_bytes(), second.write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 60 images are unreadable: .*damaged JPEG.*empty"):
        pack(photos, tmp_path / "shards")
    assert not (tmp_path / "shards" / INDEX).exists()
    message = pack(photos, tmp_path / "skipped", skip_unreadable=True)
    assert "Packed 58 images" in message
    assert "omitted: 2" in message
    keys = {
        reader.key(i) for reader in [DataReader(tmp_path / "skipped")] for i in range(len(reader))
    }
    assert len(keys) == 58
    assert first.relative_to(photos).as_posix() not in keys
    # Repaired images are read again.
    first.write_bytes(good)
    second.write_bytes(whole)
    assert "Packed 60 images" in pack(photos, tmp_path / "shards")


def test_other_content_is_kept(photos_once: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "shard-000000.tar").write_bytes(b"mine")
    (shards / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"shard-000000.tar was not written by Kerakit"):
            pack(photos_once, shards, overwrite=overwrite)
    (shards / "shard-000000.tar").unlink()
    pack(photos_once, shards)
    photos = write_photos(tmp_path / "photos")
    next(photos.rglob("*.png")).unlink()
    with pytest.raises(UserError, match="already holds shards, of other data"):
        pack(photos, shards)
    with pytest.raises(UserError, match="already holds shards, of other data or settings"):
        pack(photos_once, shards, max_side=8)
    pack(photos, shards, overwrite=True)
    assert len(DataReader(shards)) == 59
    assert (shards / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "message"), [(".", "is in"), ("cat", "is in"), ("..", "contains"), ("cat/x", "is in")]
)
def test_shards_are_outside_of_the_dataset(tmp_path: Path, to: str, message: str) -> None:
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(UserError, match=f"{message} the dataset"):
        pack(photos, photos / to)


def test_shards_of_a_table_may_be_beside_it(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    table = tmp_path / "labels.csv"
    lines = [
        f"photos/{path.relative_to(tmp_path / 'photos')},{path.parent.name}"
        for path in sorted((tmp_path / "photos").rglob("*.png"))
    ]
    table.write_text("\n".join(["path,label", *lines]))
    pack(table, tmp_path / "shards")
    assert len(DataReader(tmp_path / "shards")) == len(lines)


def test_a_dataset_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        pack(tmp_path / "none", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_images_are_scaled_down(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name, size in {"a/1.jpg": (90, 60), "b/1.png": (20, 70), "a/2.png": (20, 12)}.items():
        write_image(photos / name, 1, size)
    exif = Image.Exif()
    exif[274] = 6  # to be turned: upright it is 60 by 90
    Image.open(photos / "a/1.jpg").save(photos / "b/2.jpg", exif=exif)
    pack(photos, tmp_path / "shards", max_side=45)
    reader = DataReader(tmp_path / "shards")
    sizes = {}
    for i in range(len(reader)):
        place = reader.image_path(i)
        assert zlib.crc32(place.read_bytes()) == place.crc32
        path = tmp_path / "file"
        path.write_bytes(place.read_bytes())
        with Image.open(path) as image:
            sizes[reader.key(i)] = (image.format, image.size)
            assert image.size == place.image_size
    assert sizes == {
        "a/1.jpg": ("JPEG", (45, 30)),
        "a/2.png": ("PNG", (20, 12)),
        "b/1.png": ("JPEG", (13, 45)),
        "b/2.jpg": ("JPEG", (30, 45)),
    }


def test_names_of_any_kind(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    names = ["a/x.y.jpg", "a/x.jpg", "a/ä b%.JPG", "b/" + "n" * 120 + "/" + "m" * 150 + ".png"]
    for i, name in enumerate(names):
        write_image(photos / name, i)
    shutil.copy(photos / "a/x.jpg", os.fsdecode(bytes(photos) + b"/b/\xff.jpg"))
    pack(photos, tmp_path / "shards")
    assert_same(DataReader(photos), DataReader(tmp_path / "shards"))
    assert "all as in" in check_packed(tmp_path / "shards")


def test_splits_are_those_of_the_folders(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val", "test")):
        for name in ("cat", "dog"):
            write_image(tmp_path / "photos" / split / name / "1.jpg", i)
    pack(tmp_path / "photos", tmp_path / "shards")
    assert_same(DataReader(tmp_path / "photos"), DataReader(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("offset", pa.array([2**60] * 60)),
        ("size", pa.array([2**62] * 60)),
        ("size", pa.array([None] * 60, pa.int64())),
        ("offset", pa.array([-5] * 60)),
        ("shard", pa.array([2**30] * 60)),
        ("shard", pa.array(["../../x"] * 60)),
        ("crc32", pa.array([1.5] * 60)),
        ("label", pa.array(["unknown"] * 60)),
        ("label", pa.array([None] * 60, pa.string())),
        ("path", pa.array([[1]] * 60)),
        (METADATA, b"{}"),
        (METADATA, b"\xff"),
        (METADATA, b'{"version": 99}'),
        (METADATA, b'{"version": 1, "kind": 1, "label_columns": [], "mask_columns": {}}'),
        (
            METADATA,
            b'{"version": 1, "kind": "objects", "format": "coco", "label_columns": {}, '
            b'"mask_columns": [], "sets": {}}',
        ),
    ],
)
def test_a_hostile_index_is_an_error(
    photos_once: Path, tmp_path: Path, column: str | bytes, values: Any
) -> None:
    pack(photos_once, tmp_path / "shards")
    table = parquet.read_table(tmp_path / "shards" / INDEX)
    if isinstance(column, bytes):
        table = table.replace_schema_metadata({column: values})
    else:
        table = table.set_column(table.column_names.index(column), column, values)
    parquet.write_table(table, tmp_path / "shards" / INDEX)
    with pytest.raises(UserError):
        DataReader(tmp_path / "shards").image_path(0).read_bytes()


def test_a_full_disk(photos_once: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            pack(photos_once, tmp_path / "shards")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "shards/shard-000000.tar")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [".pack"]
    pack(photos_once, tmp_path / "shards")
    assert_same(DataReader(photos_once), DataReader(tmp_path / "shards"))
