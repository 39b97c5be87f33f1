"""Files are whole or not there."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kerakit import JobError
from kerakit.files import atomic_write, check_disk_space, naming, sha256, write_json, write_text


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


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_an_error_of_the_disk_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number, of a library without a file name, in HDF5's own words; and others as they are."""
    path = tmp_path / "a.txt"
    for error, expected in (
        (OSError(errno.ENOSPC, "no space"), (errno.ENOSPC, str(path))),
        (
            OSError("file write failed: errno = 27, error message = 'File too large'"),
            (27, str(path)),
        ),
        (OSError(errno.ENOENT, "missing", "b.jpg"), (errno.ENOENT, "b.jpg")),
    ):
        with pytest.raises(OSError, match=r".") as caught, atomic_write(path):
            raise error
        assert (caught.value.errno, caught.value.filename) == expected
    monkeypatch.setattr(os, "fsync", lambda _: os.write(99, b""))
    with pytest.raises(OSError, match=r"a\.txt"):
        write_text(path, "text")
    assert not any(tmp_path.iterdir())


def test_an_error_that_names_no_file_is_given_a_name() -> None:
    path = Path("/dev/full")  # every write fails as on a full disk
    if not path.exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space left on device: 'photos'"), naming(Path("photos")):
        path.write_text("text")


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    """``ulimit -f``, before h5py meets it."""
    code = "import sys; from pathlib import Path; from kerakit.files import check_disk_space\n"
    code += "from kerakit import script\n"
    code += "script.call(lambda: check_disk_space(Path(sys.argv[1]), 10**6))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: the limit on the size of files (ulimit -f) is reached: {tmp_path} could not"
    )
    assert not any(tmp_path.iterdir())
