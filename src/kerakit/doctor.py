"""Description of the environment for bug reports: ``kerakit doctor``."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kerakit
from kerakit.cgroup import cgroup_limits
from kerakit.errors import JobError, printable
from kerakit.machine import available_cores, available_memory, cpu_name, memory_pages
from kerakit.programs import run_program

RUNTIMES = ("tensorflow", "ai_edge_litert", "tflite_runtime", "onnxruntime", "openvino")
"""Import names of what runs exported models."""

PACKAGES = (
    *("numpy", "grain", "cv2", "simplejpeg", "albumentations", "pyarrow", "PIL"),
    *("jax", "torch", "onnx", "tf2onnx", "optuna", "mlflow", "wandb"),
)
"""Import names of further packages, the optional ones last."""

NOT_INSTALLED = "not installed"

_TIMEOUT_S = 120
_LONGEST_VERSION = 200

# Each import runs in its own process: a native library may crash, hang, or conflict with another.
_MARK = "kerakit doctor:"
_IMPORT = f"""
import importlib, importlib.metadata, json, sys
name = sys.argv[1]
module = importlib.import_module(name)
version = getattr(module, "__version__", None)
if not isinstance(version, str) or not version[:1].isdigit():
    names = importlib.metadata.packages_distributions().get(name, ())
    versions = sorted({{importlib.metadata.version(one) for one in names}})
    version = ", ".join(versions) or "unknown version"
print("{_MARK}", json.dumps(version))
"""
_KERAS = f"""
import importlib, json
import keras
from kerakit.machine import list_devices
backend = keras.backend.backend()
found = {{"version": keras.version(), "backend": backend}}
try:
    found["backend_version"] = importlib.import_module(backend).__version__
    found["devices"] = list_devices()
except Exception as error:
    found["devices"] = f"{{type(error).__name__}}: {{error}}"
print("{_MARK}", json.dumps(found))
"""


def describe_environment() -> dict[str, Any]:
    """Return versions, devices, cores, memory, runtimes and compilers.

    A package that fails to import is described by its error. Memory is in bytes.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        keras_info = pool.submit(_run_python, _KERAS)
        runtimes = pool.map(_package_version, RUNTIMES)
        packages = pool.map(_package_version, PACKAGES)
    limits = cgroup_limits()
    return {
        "kerakit": kerakit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "keras": keras_info.result(),
        "cpu": cpu_name(),
        "cores": {
            "available": available_cores(),
            "machine": os.cpu_count(),
            "cgroup limit": limits.cores,
        },
        "memory": {
            "available": available_memory(),
            "machine": memory_pages("SC_PHYS_PAGES"),
            "cgroup limit": limits.memory,
        },
        "runtimes": dict(zip(RUNTIMES, runtimes, strict=True))
        | {"libedgetpu": ctypes.util.find_library("edgetpu") or NOT_INSTALLED},
        "compilers": {"edgetpu_compiler": _program_version("edgetpu_compiler")},
        "packages": dict(zip(PACKAGES, packages, strict=True)),
    }


def print_environment() -> None:
    """Print ``describe_environment()``, one line per fact."""
    print("importing all packages ...", file=sys.stderr, flush=True)
    for name, value in describe_environment().items():
        if not isinstance(value, dict):
            print(f"{name}: {_text(name, value)}")
            continue
        print(f"{name}:")
        for key, one in value.items():
            print(f"  {key}: {_text(name, one)}")


def _text(section: str, value: Any) -> str:
    if value is None:
        return "none"
    if section == "memory":
        return f"{value / 2**30:.1f} GiB"
    return printable(", ".join(value) if isinstance(value, list) else f"{value}")


def _package_version(name: str) -> str:
    """Return the version of an importable package, NOT_INSTALLED, or why the import fails."""
    if importlib.util.find_spec(name) is None:
        return NOT_INSTALLED
    found = _run_python(_IMPORT, name)
    return str(found.get("error") if isinstance(found, dict) else found)


def _run_python(source: str, *args: str) -> Any:
    """Run Python code in a new process; return the JSON value that it prints, or {"error": ...}."""
    done = _run([sys.executable, "-c", source, *args])
    if isinstance(done, str):
        return {"error": done}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    if done.returncode < 0:
        return {"error": f"import crashes: {signal.Signals(-done.returncode).name}"}
    return {"error": f"import fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"}


def _program_version(name: str) -> str:
    """Return the path of a program and the first line that its ``--version`` prints."""
    path = shutil.which(name)
    if path is None:
        return NOT_INSTALLED
    try:
        _, output = run_program([path, "--version"], _TIMEOUT_S, name)
    except JobError as error:
        return f"{error} ({path})"
    return f"{(output.strip().splitlines() or ['unknown version'])[0][:_LONGEST_VERSION]} ({path})"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | str:
    """Run this Python; return its result, or why there is none."""
    try:
        return subprocess.run(  # noqa: S603 - no shell; this Python
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except subprocess.TimeoutExpired:
        return f"timed out after {_TIMEOUT_S} s"
    except OSError as error:
        return f"cannot be run: {error.strerror}"
