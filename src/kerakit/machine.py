"""Where a report was made: the machine and the versions."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kerakit.data.decode import available_cores

_CPUS = Path("/proc/cpuinfo")


def facts(packages: Iterable[str]) -> dict[str, Any]:
    """Return what a report says of now, this machine, and the versions of Keras's backend and of ``packages``."""
    import keras

    backend = keras.backend.backend()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cpu": cpu(),
        "cores": available_cores(),
        "versions": {backend: importlib.import_module(backend).__version__, **{name: version(name) for name in packages}},
    }


def cpu() -> str | None:
    """Return the processor's name as the system gives it; None where it gives none."""
    try:
        text = _CPUS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:model name|Model)\s*:\s*(\S.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None
