"""Files are whole or not there."""

import hashlib
from pathlib import Path

import pytest

from kerakit import JobError
from kerakit.files import atomic_write, check_disk_space, sha256, write_json, write_text


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half_write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        half_write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_ending_stays_while_writing(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.weights.h5") as temporary:
        assert temporary.name.endswith(".a.weights.h5")
        assert temporary.parent == tmp_path
        temporary.touch()


def test_json_that_others_could_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not any(tmp_path.iterdir())


def test_what_does_not_fit_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    check_disk_space(tmp_path, 1)
    with pytest.raises(JobError, match="the disk is full"):
        check_disk_space(tmp_path, 10**18)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
