"""State of callbacks as values for JSON and arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.state_folder import decode, encode

_IGNORED = {"params", "_model", "validation_data", "min_delta"}
"""Attributes that ``fit`` sets, and a setting whose sign Keras changes in each process."""


def separate_arrays(value: Any, prefix: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return ``value`` for JSON; arrays in it are added to ``arrays``, with names after ``prefix``.

    Raises:
        TypeError: it has parts that are neither values of JSON nor arrays of numbers.

    >>> arrays = {}
    >>> separate_arrays({"best": 0.5, "weights": [np.zeros(2)]}, "callback", arrays)
    {'best': 0.5, 'weights': [{'array': 'callback/0'}]}
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise TypeError(f"an array of {value.dtype}")
        name = f"{prefix}/{sum(key.startswith(f'{prefix}/') for key in arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, list | tuple):
        return [separate_arrays(each, prefix, arrays) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: separate_arrays(each, prefix, arrays) for key, each in value.items()}
    return encode(value)


def restore_arrays(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the value that ``separate_arrays`` was given, with lists for tuples."""
    if isinstance(value, list):
        return [restore_arrays(each, arrays) for each in value]
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        if value.keys() != {"float"}:
            return {key: restore_arrays(each, arrays) for key, each in value.items()}
    return decode(value)


class CallbackStates:
    """State of callbacks: of ``get_state()``, or attributes that changed since this was created.

    Callbacks of Keras and of the owner have no ``get_state``. Of these, attributes made of numbers,
    text and arrays are saved, where they differ from what they were before ``fit``: counters and
    best values, not the settings.

    Args:
        callbacks: the callbacks, before any ``fit``.

    >>> import keras
    >>> stopping = keras.callbacks.EarlyStopping(patience=3)
    >>> states = CallbackStates([stopping])
    >>> stopping.wait = 2
    >>> states.collect([stopping], {})
    {'EarlyStopping 1': {'wait': 2}}
    """

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self._before: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.add(callbacks)

    def add(self, callbacks: Iterable[Any]) -> None:
        """Record the attributes of further callbacks."""
        for one in callbacks:
            self._before.setdefault(id(one), (one, _plain_attributes(one)))

    def collect(self, callbacks: Iterable[Any], arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the state of each callback by its name; add its arrays to ``arrays``."""
        states = {}
        for name, callback in _named(callbacks):
            if hasattr(callback, "get_state"):
                state = callback.get_state()
            else:
                before = self._before.get(id(callback), (None, {}))[1]
                state = {
                    key: value
                    for key, value in _plain_attributes(callback).items()
                    if key not in before or not _equal(value, before[key])
                }
            if state:
                states[name] = separate_arrays(state, f"callbacks/{name}", arrays)
        return states

    def restore(
        self,
        callbacks: Iterable[Any],
        states: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        """Set the state of each callback that ``collect`` returned."""
        for name, callback in _named(callbacks):
            if name not in states:
                continue
            state = restore_arrays(states[name], arrays)
            if hasattr(callback, "set_state"):
                callback.set_state(state)
            else:
                for key, value in state.items():
                    setattr(callback, key, value)


def _named(callbacks: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return each callback with its class and its number among those of the class."""
    seen: Counter[str] = Counter()
    named = []
    for callback in callbacks:
        kind = type(callback).__name__
        seen[kind] += 1
        named.append((f"{kind} {seen[kind]}", callback))
    return named


def _plain_attributes(callback: Any) -> dict[str, Any]:
    """Return the attributes made of numbers, text and arrays; none of Kerakit's own callbacks."""
    if hasattr(callback, "get_state") or type(callback).__module__.startswith("kerakit."):
        return {}
    plain = {}
    for name, value in vars(callback).items():
        if name in _IGNORED or isinstance(value, str):  # text: names and paths
            continue
        try:
            separate_arrays(value, "", {})
        except TypeError:
            continue
        plain[name] = _copied(value)
    return plain


def _copied(value: Any) -> Any:
    """Return a copy of containers, which a callback may change in place."""
    if isinstance(value, list | tuple):
        return [_copied(each) for each in value]
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def _equal(one: Any, other: Any) -> bool:
    first: dict[str, NDArray[Any]] = {}
    second: dict[str, NDArray[Any]] = {}
    same = separate_arrays(one, "", first) == separate_arrays(other, "", second)
    return same and all(np.array_equal(first[name], second[name]) for name in first)
