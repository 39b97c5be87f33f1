"""The optional packages of Kerakit, and the command that installs them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
from collections.abc import Iterable

from kerakit.errors import UserError

BACKENDS = {"tensorflow": "cpu", "jax": "jax", "torch": ""}
"""Backends of Keras that train, by the names of their packages, and the extra of each, if any.

>>> BACKENDS["jax"]
'jax'
"""


def install_command(extra: str) -> str:
    """Return the pip command that installs the packages of an extra, such as ``onnx``.

    It names the packages instead of ``kerakit[onnx]``, which pip finds on PyPI only: Kerakit may
    have been installed from a checkout, a wheel or a repository.

    >>> install_command("openvino").startswith("pip install 'openvino")
    True
    """
    try:
        lines = importlib.metadata.requires("kerakit") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        lines = []
    found = [re.fullmatch(r"(.+?)\s*;\s*extra == ['\"](.+)['\"]", line) for line in lines]
    packages = [one[1].replace(" ", "") for one in found if one and one[2] == extra]
    return shlex.join(["pip", "install", *(packages or [f"kerakit[{extra}]"])])


def is_installed(package: str) -> bool:
    """Return whether a top-level package can be imported.

    >>> is_installed("numpy"), is_installed("no_such_package")
    (True, False)
    """
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # it is in sys.modules without a specification
        return False
    # A folder "wandb", such as that of its offline runs, is found as a package without a file.
    return spec is not None and spec.origin is not None


def check_trackers(names: Iterable[str]) -> None:
    """Raise UserError unless the packages of experiment trackers are installed.

    Args:
        names: names of packages, which are those of the extras, too.

    >>> check_trackers(())  # for example ("mlflow", "wandb")
    """
    for name in names:
        if not is_installed(name):
            raise UserError(
                f"--track {name} needs a package that is not installed: {install_command(name)}"
            )
