"""Shards and other programs: WebDataset, Hugging Face datasets, an S3 server. Skipped without them.

``pip install webdataset datasets s3fs obstore "moto[server]"``
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kerakit.data import DataReader
from kerakit.data.shards import plan, storage
from kerakit.data.shards.commands import check_packed
from kerakit.data.shards.storage import Storage
from packing import assert_same, pack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of these programs
]


@pytest.fixture
def shards(photos_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan, "_MAX_IMAGES", 25)
    pack(photos_once, tmp_path / "shards")
    return tmp_path / "shards"


def assert_samples(samples: list[tuple[bytes, dict[str, Any]]], photos: Path) -> None:
    assert len(samples) == 60
    for image, label in samples:
        assert (photos / label["path"]).read_bytes() == image
        assert label["label"] == label["path"].partition("/")[0]


def test_webdataset_reads_shards(shards: Path, photos_once: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    found = webdataset.WebDataset(str(shards / "shard-{000000..000002}.tar"), shardshuffle=False)
    samples = [(sample["png"], sample["json"]) for sample in found]
    import json

    assert_samples([(image, json.loads(label)) for image, label in samples], photos_once)


def test_hugging_face_reads_shards(shards: Path, photos_once: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "webdataset",
        data_files=str(shards / "*.tar"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    ).cast_column("png", datasets.Image(decode=False))
    assert_samples([(row["png"]["bytes"], row["json"]) for row in found], photos_once)


@pytest.mark.parametrize("package", ["s3fs", "obstore"])
def test_an_s3_server(photos_once: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip(package)
    monkeypatch.setattr(storage, "is_installed", lambda _: package == "obstore")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # of another server
        s3fs.S3FileSystem().mkdir(package)
        monkeypatch.setattr(plan, "_MAX_IMAGES", 25)
        pack(photos_once, f"s3://{package}/shards")
        assert_same(DataReader(photos_once), DataReader(f"s3://{package}/shards"))
        assert "all as in" in check_packed(Path(f"s3://{package}/shards"))
        Storage(f"s3://{package}/shards").remove("index.parquet")
        assert Storage(f"s3://{package}/shards").size("index.parquet") is None
    finally:
        server.stop()
