"""Reasons why a format or a folder of an export failed, in one line."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kerakit.architecture import flatten_layers
from kerakit.errors import KerakitError, first_line
from kerakit.files import disk_full_code
from kerakit.tflite.graph import read_graph
from kerakit.tflite.layers import describe_layers, keras_layer_names, layers_in_text

if TYPE_CHECKING:
    import keras

_WIDTH = 300
"""Largest length of the message of an unexpected error, in characters."""


def describe_failure(error: Exception, path: Path, model: keras.Model) -> str:
    """Return the reason, in one line, why a format or folder failed; raise what concerns all.

    Args:
        error: the error.
        path: its file, which may be missing.
        model: its layer is named where the error leads to one.

    Raises:
        MemoryError: not enough memory.
        OSError: the disk is full.
    """
    if isinstance(error, MemoryError):
        raise error
    if (code := disk_full_code(error)) is not None:
        raise OSError(code, os.strerror(code), str(path)) from error
    if isinstance(error, KerakitError):
        reason = " ".join(str(error).split())
    else:
        # Keras and TensorFlow print the message of a layer in bold, amid their own.
        bold = re.search(r"\x1b\[1m(.+?)\x1b\[0m", str(error), re.DOTALL)
        text = " ".join((bold[1] if bold else first_line(error)).split())
        text = textwrap.shorten(text, _WIDTH, placeholder=" …")
        reason = f"{type(error).__name__}: {text}"
    is_named = re.search(r"\blayers? '", reason)
    layers = [] if is_named else _find_layers(error, path, model)
    return f"{reason.rstrip('.')}{describe_layers(layers)}" if layers else reason


def _find_layers(error: Exception, path: Path, model: keras.Model) -> list[str]:
    """Return the names of the layers that caused an error, as far as it tells."""
    message = f"{error} {error.__cause__ or ''}"
    node = re.search(r"Node number (\d+) \((\w+)\)", message)  # of LiteRT
    if node and path.suffix == ".tflite" and path.is_file():
        graph = read_graph(path.read_bytes())
        index = int(node[1])
        if index < len(graph.operators) and graph.operators[index].op == node[2]:
            return [keras_layer_names(graph, model)[index]]
    if kind := re.search(r"calling (\w+)\.call\(\)", message):  # of Keras
        names = [one.name for one in flatten_layers(model) if type(one).__name__ == kind[1]]
        return names if len(names) == 1 else []
    return layers_in_text(message, model)
