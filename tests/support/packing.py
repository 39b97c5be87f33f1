"""Shards and their readers, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerakit.data.shards import writer
from kerakit.data.shards.commands import pack_dataset


def pack(
    data: Path,
    to: Path | str,
    task: str = "",
    max_side: int | None = None,
    skip_unreadable: bool = False,
    overwrite: bool = False,
) -> str:
    return pack_dataset(data, Path(to), task, max_side, 90, skip_unreadable, overwrite)


def pack_without_index(data: Path, to: Path | str) -> None:
    """Write all shards, and fail at the index, as if a process was killed there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_write_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(data, to)


def assert_same(one: Any, other: Any) -> None:
    """Readers with the same images, annotations and splits."""
    assert one.class_names == other.class_names
    assert [one.key(i) for i in range(len(one))] == [other.key(i) for i in range(len(other))]
    for mode in ("train", "val", "test"):
        np.testing.assert_array_equal(one.indices(mode), other.indices(mode))
    for i in range(len(one)):
        assert one.image_path(i).read_bytes() == other.image_path(i).read_bytes()
        assert_equal(one.target(i), other.target(i))


def assert_equal(one: Any, other: Any) -> None:
    """Annotations, masks by their bytes."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, str):
        assert Path(one).read_bytes() == other.read_bytes()
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype == np.asarray(other).dtype
