"""Start of a script: threads, the output of native libraries, Keras's backend."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kerakit
from kerakit import UserError, console
from kerakit.extras import BACKENDS

VARIABLES = (
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    "PJRT_NPROC",
)


def run(source: str, *args: object, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own; None removes a variable."""
    removed = (*VARIABLES, "KERAS_BACKEND", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_with_keras_json(
    source: str, home: Path, content: str, backend: str | None
) -> subprocess.CompletedProcess[str]:
    """Run Python code with a keras.json, and KERAS_BACKEND unless it is None."""
    (home / ".keras").mkdir()
    (home / ".keras" / "keras.json").write_text(content)
    return run(source, HOME=str(home), KERAS_BACKEND=backend)


THREADS = """
import functools, json, os, sys
from pathlib import Path
from kerakit import Config, cgroup, machine, parse_args

root = Path(sys.argv[1])
machine.cgroup_limits = functools.partial(cgroup.cgroup_limits, root, root / "membership")
names, sys.argv[1:] = sys.argv[2:], []
parse_args(Config)
early = [name for name in ("numpy", "tensorflow", "keras") if name in sys.modules]
import numpy
print(json.dumps({
    "early": early,
    "threads": len(os.listdir("/proc/self/task")),
    **{name: os.environ.get(name) for name in names},
}))
"""


def threads(folder: Path, quota: str, **variables: str) -> dict[str, Any]:
    """Parse flags in a control group with a limit on CPU time, and import NumPy."""
    folder.mkdir()
    (folder / "membership").write_text("0::/\n")
    (folder / "cpu.max").write_text(quota)
    found: dict[str, Any] = json.loads(run(THREADS, folder, *VARIABLES, **variables).stdout)
    assert found.pop("early") == []
    return found


def test_native_libraries_start_as_many_threads_as_the_control_group_has_cores(
    tmp_path: Path,
) -> None:
    found = threads(tmp_path / "half", "50000 100000")
    assert found.pop("threads") == 1  # OpenBLAS starts its threads when NumPy is imported
    assert found == dict.fromkeys(VARIABLES, "1")
    own = threads(tmp_path / "own", "50000 100000", OMP_NUM_THREADS="3")
    assert own["OMP_NUM_THREADS"] == "3"
    for quota in ("max 100000", f"{(os.cpu_count() or 1) * 100000} 100000"):
        free = threads(tmp_path / quota.partition(" ")[0], quota)
        del free["threads"]
        assert free == dict.fromkeys(VARIABLES)


COMMAND = """
import functools, json, os, sys
from pathlib import Path
from kerakit import cgroup, machine, script

root = Path(sys.argv[1])
group = root, root / "membership"
machine.cgroup_limits = functools.partial(cgroup.cgroup_limits, *group)
machine.free_cgroup_memory = functools.partial(cgroup.free_cgroup_memory, *group)


def print_limits():
    print(json.dumps({
        "variables": [os.environ.get(name) for name in sys.argv[2:]],
        "cores": machine.available_cores(),
        "memory": machine.available_memory(),
    }))


script.call(print_limits)
"""


@pytest.mark.parametrize("version", [1, 2])
def test_commands_have_the_cores_and_the_memory_of_their_control_group(
    version: int, tmp_path: Path
) -> None:
    mebi = 2**20
    files = {
        1: {
            "membership": "3:memory:/pod\n2:cpu,cpuacct:/pod\n",
            "cpu/cpu.cfs_quota_us": "70000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(600 * mebi),
            "memory/memory.usage_in_bytes": str(100 * mebi),
        },
        2: {
            "membership": "0::/\n",
            "cpu.max": "70000 100000",
            "memory.max": str(600 * mebi),
            "memory.current": str(100 * mebi),
        },
    }
    for name, text in files[version].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = json.loads(run(COMMAND, tmp_path, *VARIABLES).stdout)
    assert found["variables"] == ["1"] * len(VARIABLES)
    assert (found["cores"], found["memory"]) == (1, 500 * mebi)


def test_cores_and_memory_are_counted_in_one_place() -> None:
    """What counts those of the host is in ``machine.py``; ``kerakit doctor`` prints both."""
    counts = re.compile(
        r"cpu_count|sched_getaffinity|psutil|SC_AVPHYS|SC_NPROC|MemAvailable|n_jobs=-1"
        r"|ThreadPoolExecutor\(\)"
    )
    engine = Path(kerakit.__file__).parent
    found = {
        path.relative_to(engine).as_posix()
        for path in engine.rglob("*.py")
        if counts.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"machine.py", "doctor.py"}


LIMITED = """
import resource, sys
from kerakit import Config, parse_args
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv.pop()) * 2**30, -1))
parse_args(Config)
"""


def test_a_limit_on_the_address_space_is_a_warning() -> None:
    assert "limited to 4.0 GiB (ulimit -v)" in run(LIMITED, 4).stderr
    assert run(LIMITED, 64).stderr == ""


def test_a_start_up_is_quiet_and_hides_optional_packages() -> None:
    """Also the output of native code; what was imported before remains."""
    done = run("""
import os, sys
import matplotlib
import kerakit
with kerakit.quiet_startup():
    os.write(1, b"native")
    os.write(2, b"native")
    import keras
    assert sys.modules["matplotlib"] is matplotlib
    for name in ("sklearn", "jax"):
        try:
            __import__(name)
        except ImportError:
            pass
        else:
            raise AssertionError(name)
import jax, sklearn
assert keras.backend.backend() == "tensorflow"
print("done")
""")
    assert done.stdout == "done\n"
    assert done.stderr == ""


def test_an_error_at_the_start_up_is_shown_and_restores_the_streams() -> None:
    done = run("""
import sys
import kerakit
try:
    with kerakit.quiet_startup():
        raise ImportError("no such library")
except ImportError as error:
    print(error)
assert "sklearn" not in sys.modules
""")
    assert done.stdout == "no such library\n"


BACKEND = """
import sys
from kerakit.console import keras_backend
expected = keras_backend()
if expected != "tensorflow":
    sys.modules["tensorflow"] = None  # as if it were not installed: its import takes time
import kerakit
with kerakit.quiet_startup():
    import keras
assert keras.backend.backend() == expected, (keras.backend.backend(), expected)
print(expected)
"""


@pytest.mark.parametrize(
    ("content", "variable", "expected"),
    [
        ('{"backend": "jax"}', None, "jax"),
        ('{"backend": "tensorflow"}', "jax", "jax"),
        ('{"backend": "jax"}', "", "jax"),
        ('{"backend": ', None, "tensorflow"),
    ],
)
def test_the_backend_is_found_by_the_rules_of_keras(
    content: str, variable: str | None, expected: str, tmp_path: Path
) -> None:
    done = run_with_keras_json(BACKEND, tmp_path, content, variable)
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize(
    ("content", "variable", "message"),
    [
        ("{}", "nonsense", "KERAS_BACKEND: unknown Keras backend 'nonsense'."),
        ("{}", "TensorFlow", "KERAS_BACKEND: unknown Keras backend 'TensorFlow'."),
        ('{"backend": 3}', None, "keras.json: unknown Keras backend 3."),
    ],
)
def test_a_backend_that_keras_lacks_is_an_error_before_its_import(
    content: str, variable: str | None, message: str, tmp_path: Path
) -> None:
    done = run_with_keras_json(UNKNOWN, tmp_path, content, variable)
    assert done.stdout.startswith(message)


def test_tensorflow_starts_quietly_under_another_backend(tmp_path: Path) -> None:
    """Keras imports it for random seeds."""
    done = run_with_keras_json(SEED, tmp_path, '{"backend": "jax"}', None)
    assert (done.stdout, done.stderr) == ("jax\n", "")


SEED = """
import kerakit
with kerakit.quiet_startup():
    import keras
keras.utils.set_random_seed(0)
print(keras.backend.backend())
"""


UNKNOWN = """
import kerakit
try:
    with kerakit.quiet_startup():
        import keras
except kerakit.UserError as error:
    print(error)
"""


def test_a_backend_that_is_not_installed_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "no_such_package", "")
    monkeypatch.setenv("KERAS_BACKEND", "no_such_package")
    with (
        pytest.raises(UserError, match=r"pip install no_such_package\. .* KERAS_BACKEND=tensor"),
        console.quiet_startup(),
    ):
        pass
