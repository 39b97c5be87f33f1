"""``kerakit doctor``, and the limits of control groups."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kerakit
from kerakit import doctor
from kerakit.cgroup import CgroupLimits, cgroup_limits, free_cgroup_memory
from kerakit.machine import available_memory

GIB = 2**30


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    """A function that writes a file below tmp_path."""

    def write_file(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write_file


def limits(folder: Path) -> CgroupLimits:
    return cgroup_limits(folder / "cgroup", folder / "membership")


def test_cgroup_v2_in_a_container(tmp_path: Path, write: Callable[[str, str], None]) -> None:
    write("membership", "0::/\n")
    write("cgroup/cpu.max", "150000 100000\n")
    write("cgroup/memory.max", f"{4 * GIB}\n")
    assert limits(tmp_path) == CgroupLimits(1.5, 4 * GIB)


def test_the_tightest_limit_of_all_parents(
    tmp_path: Path, write: Callable[[str, str], None]
) -> None:
    write("membership", "0::/jobs/mine\n")
    for group, cores, gib in (("jobs", 2, 8), ("jobs/mine", 3, 16)):
        write(f"cgroup/{group}/cpu.max", f"{cores}00000 100000\n")
        write(f"cgroup/{group}/memory.max", f"{gib * GIB}\n")
    assert limits(tmp_path) == CgroupLimits(2.0, 8 * GIB)


def test_cgroup_v1_whose_path_is_that_of_the_host(
    tmp_path: Path, write: Callable[[str, str], None]
) -> None:
    write("membership", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n")
    write("cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    write("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write("cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    assert limits(tmp_path) == CgroupLimits(0.5, 2 * GIB)


@pytest.mark.parametrize("membership", ["", "0::/\n", "4:memory:/\n1:cpu:/\n"])
def test_no_limit(tmp_path: Path, write: Callable[[str, str], None], membership: str) -> None:
    write("membership", membership)
    write("cgroup/cpu.max", "max 100000\n")
    write("cgroup/memory.max", "max\n")
    write("cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert limits(tmp_path) == CgroupLimits()


@pytest.mark.parametrize(
    ("limit", "used", "prefix", "group"),
    [
        ("memory.max", "memory.current", "", "0::/"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "4:memory:/"),
    ],
)
def test_memory_that_is_left(
    tmp_path: Path,
    write: Callable[[str, str], None],
    limit: str,
    used: str,
    prefix: str,
    group: str,
) -> None:
    def left() -> int | None:
        return free_cgroup_memory(tmp_path / "cgroup", tmp_path / "membership")

    folder = "cgroup" if group == "0::/" else "cgroup/memory"
    write("membership", f"{group}\n")
    assert left() is None
    write(f"{folder}/{limit}", f"{4 * GIB}\n")
    assert left() == 4 * GIB
    write(f"{folder}/{used}", f"{3 * GIB}\n")
    write(f"{folder}/memory.stat", f"anon 5\n{prefix}inactive_file {GIB}\nslab 7\n")
    assert left() == 2 * GIB
    write(f"{folder}/{used}", f"{9 * GIB}\n")
    assert left() == 0


def test_file_pages_count_as_available(tmp_path: Path) -> None:
    """Free pages alone are few after much reading: a cache and a limit would be too small."""
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 16 kB\nMemFree:        3 kB\nMemAvailable:      11 kB\n")
    assert available_memory(info) == 11 * 1024
    for text in ("", "MemAvailable: many kB\n"):
        info.write_text(text)
        assert available_memory(info) > 2**20
    assert available_memory(tmp_path / "none") > 2**20


def test_no_control_groups(tmp_path: Path) -> None:
    assert limits(tmp_path) == CgroupLimits()


def test_the_environment_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A healthy package, packages that fail or crash on import, one that is missing, a compiler."""
    (tmp_path / "fails_to_import.py").write_text("raise OSError('libGL.so.1 is missing')")
    (tmp_path / "crashes.py").write_text("import os; os.kill(os.getpid(), 4)")
    compiler = tmp_path / "edgetpu_compiler"
    compiler.write_text(f"#!{sys.executable}\nprint('Edge TPU Compiler version 16.0')")
    compiler.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "RUNTIMES", ("numpy", "fails_to_import", "crashes", "not_there"))
    monkeypatch.setattr(doctor, "PACKAGES", ())

    found = doctor.describe_environment()
    assert found["kerakit"] == kerakit.__version__
    assert found["keras"]["backend_version"][0].isdigit()
    assert "cpu:0" in [name.lower() for name in found["keras"]["devices"]]
    assert 1 <= found["cores"]["available"] <= found["cores"]["machine"]
    assert 0 < found["memory"]["available"] <= found["memory"]["machine"]
    runtimes = found["runtimes"]
    assert runtimes["numpy"] == np.__version__
    assert "libGL" in runtimes["fails_to_import"]
    assert "SIGILL" in runtimes["crashes"]
    assert runtimes["not_there"] == doctor.NOT_INSTALLED
    assert found["compilers"]["edgetpu_compiler"].startswith("Edge TPU Compiler version 16.0")


def test_a_compiler_with_endless_output_and_a_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "edgetpu_compiler"
    compiler.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    time.sleep(9999)\n"  # it keeps the output open
        "print('version 16 \\x1b[31m' + 'x' * 10**7)\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    described = doctor._program_version("edgetpu_compiler")
    assert described.startswith(r"version 16 \x1b[31mxxx")
    assert len(described) < 500
    compiler.write_text("no program")
    assert "cannot be run" in doctor._program_version("edgetpu_compiler")


def test_it_is_printed_as_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {
        "python": "3.11",
        "keras": {"devices": ["cpu:0", "gpu:0"]},
        "memory": {"available": 3 * GIB, "cgroup limit": None},
        "compilers": {"edgetpu_compiler": "version \x1b[31m16"},
    }
    monkeypatch.setattr(doctor, "describe_environment", lambda: sample)
    doctor.print_environment()
    assert capsys.readouterr().out.splitlines() == [
        "python: 3.11",
        "keras:",
        "  devices: cpu:0, gpu:0",
        "memory:",
        "  available: 3.0 GiB",
        "  cgroup limit: none",
        "compilers:",
        r"  edgetpu_compiler: version \x1b[31m16",
    ]
