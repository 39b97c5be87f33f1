"""Kerakit: building blocks of Keras image projects, from image files to verified device models.

The names in ``__all__`` are the public interface. They are imported on first use, so that
``import kerakit`` is cheap and ``python train.py --help`` does not wait for TensorFlow.
"""

from __future__ import annotations

from kerakit.lazy import lazy_names

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from kerakit.architecture import fingerprint
    from kerakit.config import (
        ClassNames,
        Config,
        DataPath,
        InputSize,
        List,
        OutputPath,
        Resume,
        check_choice,
    )
    from kerakit.console import quiet_startup
    from kerakit.errors import ImageError, JobError, KerakitError, UserError
    from kerakit.interrupt import exit_on_interrupt
    from kerakit.run import Run
    from kerakit.script import deploy_command, parse_args
    from kerakit.trained_weights import load_weights

__version__ = "0.2.0"

_HOMES = {
    "ClassNames": "kerakit.config",
    "Config": "kerakit.config",
    "DataPath": "kerakit.config",
    "ImageError": "kerakit.errors",
    "InputSize": "kerakit.config",
    "JobError": "kerakit.errors",
    "KerakitError": "kerakit.errors",
    "List": "kerakit.config",
    "Resume": "kerakit.config",
    "OutputPath": "kerakit.config",
    "Run": "kerakit.run",
    "UserError": "kerakit.errors",
    "check_choice": "kerakit.config",
    "deploy_command": "kerakit.script",
    "exit_on_interrupt": "kerakit.interrupt",
    "fingerprint": "kerakit.architecture",
    "load_weights": "kerakit.trained_weights",
    "parse_args": "kerakit.script",
    "quiet_startup": "kerakit.console",
}

__all__ = [
    "ClassNames",
    "Config",
    "DataPath",
    "ImageError",
    "InputSize",
    "JobError",
    "KerakitError",
    "List",
    "OutputPath",
    "Resume",
    "Run",
    "UserError",
    "check_choice",
    "deploy_command",
    "exit_on_interrupt",
    "fingerprint",
    "load_weights",
    "parse_args",
    "quiet_startup",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
