"""Fingerprint of a model's architecture: equal fingerprints compute the same with equal weights."""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

_IGNORED = frozenset(
    (
        *("module", "registered_name", "build_config", "compile_config"),
        # The same layers at another input size or precision are the same architecture.
        *("batch_shape", "batch_input_shape", "dtype", "trainable", "autocast", "sparse", "ragged"),
        # Effective in training alone. Pretrained models may have another momentum than others.
        *("momentum", "seed", "synchronized", "lora_rank", "quantization_config"),
        *("kernel_quantizer", "bias_quantizer"),
    )
)
_IGNORED_SUFFIXES = ("_initializer", "_regularizer", "_constraint")


def fingerprint(model: keras.Model) -> dict[str, str]:
    """Return a digest of layers, their options and weight shapes, and Keras's version.

    Ignored is what does not change outputs or follows from the process: names of layers, input
    size, precision, initializers, regularizers, dropout rates, momentum, whether layers are frozen.
    The source of custom layers and of Lambda functions counts, without comments and formatting.

    Args:
        model: a built model.

    Returns:
        ``sha256``, 64 hexadecimal digits, and ``keras``, the version that serialized the model.

    >>> import keras
    >>> def build(activation):
    ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation)])
    >>> fingerprint(build("relu")) == fingerprint(build("relu"))
    True
    >>> fingerprint(build("relu")) == fingerprint(build("relu6"))
    False
    """
    import keras

    try:
        config = keras.saving.serialize_keras_object(model)
    except Exception:
        # A model of the owner's own class, which need not be serializable.
        config = {"class_name": type(model).__name__}
    numbers = itertools.count()
    names: dict[str, int] = {}

    def number(name: str) -> int:
        if name not in names:
            names[name] = next(numbers)
        return names[name]

    parts = [
        _normalize(config, number),
        [list(weight.shape) for weight in model.weights],
        [_source(type(part)) for part in _custom(model)],
        [
            _lambda_source(layer.function)
            for layer in flatten_layers(model)
            if hasattr(layer, "function")
        ],
    ]
    text = json.dumps(parts, sort_keys=True, default=repr)
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "keras": keras.version()}


def _normalize(value: Any, number: Callable[[str], int]) -> Any:
    """Return a serialized object without ignored entries; names are numbered in their order."""
    if isinstance(value, list | tuple):
        if len(value) == 3 and isinstance(value[0], str) and list(value[1:]) == [0, 0]:
            return [number(value[0]), 0, 0]
        return [_normalize(item, number) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__lambda__":
        return "lambda"  # bytecode, which differs between versions of Python
    is_dropout = "Dropout" in str(value.get("class_name"))
    normalized: dict[str, Any] = {}
    for key, item in value.items():
        if key in _IGNORED or key.endswith(_IGNORED_SUFFIXES):
            continue
        if key == "name" and isinstance(item, str):
            normalized[key] = number(item)
        elif key == "keras_history":
            normalized[key] = [number(item[0]), *item[1:]]
        elif is_dropout and key == "config" and isinstance(item, dict):
            options = {name: one for name, one in item.items() if name != "rate"}
            normalized[key] = _normalize(options, number)
        else:
            normalized[key] = _normalize(item, number)
    return normalized


def flatten_layers(model: keras.Layer) -> list[Any]:
    """Return all layers inside a model or a layer, those inside them too, in their order.

    Keras has no public function that enters wrappers and the attributes of custom layers.
    """
    return list(model._flatten_layers(include_self=False))


def _custom(model: keras.Model) -> Iterator[Any]:
    """Yield the layers, and the model, of classes that are not Keras's own."""
    for part in (model, *flatten_layers(model)):
        if type(part).__module__.partition(".")[0] not in ("keras", "kerakit"):
            yield part


def _source(owner: Any) -> str:
    """Return source code without comments and formatting; empty where there is none."""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(owner))))
    except (OSError, TypeError, SyntaxError):
        return ""


def _lambda_source(function: Any) -> str:
    """Return the source of a function of a Lambda layer."""
    code = getattr(function, "__code__", None)
    if code is None or function.__name__ != "<lambda>":
        return _source(function)
    try:
        lines, _ = inspect.findsource(function)
        tree = ast.parse("".join(lines))
    except (OSError, TypeError, SyntaxError):
        return ""
    return "; ".join(
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
    )
