"""Keep the chatter of libraries out of what the user reads."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def no_advice() -> Iterator[None]:
    """Silence the warnings that Keras, TensorFlow and grain log: advice against what was asked for on purpose."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def native_output(target: Any = None) -> Iterator[None]:
    """Send what C++ code writes to stdout and stderr into ``target`` (an open file), or nowhere."""
    with open(os.devnull, "w") as nowhere:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        try:
            for descriptor in (1, 2):
                os.dup2((target or nowhere).fileno(), descriptor)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
