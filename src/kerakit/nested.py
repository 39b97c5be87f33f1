"""Arrays, and dictionaries or tuples of arrays: values of tasks with several outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


def map_arrays(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to the arrays of equal structures; the structure stays.

    >>> map_arrays(lambda a, b: a + b, {"x": 1, "y": 2}, {"x": 10, "y": 20})
    {'x': 11, 'y': 22}
    """
    first = values[0]
    if isinstance(first, dict):
        return {name: map_arrays(function, *(one[name] for one in values)) for name in first}
    if isinstance(first, tuple):
        return tuple(map_arrays(function, *parts) for parts in zip(*values, strict=True))
    return function(*values)


def arrays(value: Any) -> Iterator[Any]:
    """Yield the arrays of a structure, those of a dictionary in the order of its keys.

    >>> list(arrays({"b": 1, "a": (2, 3)}))
    [1, 2, 3]
    """
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for part in value:
            yield from arrays(part)
    else:
        yield value


def fill(template: Any, values: Iterator[Any]) -> Any:
    """Return the structure of ``template`` with the next values in place of its arrays.

    >>> fill({"b": 0, "a": (0, 0)}, iter([1, 2, 3]))
    {'b': 1, 'a': (2, 3)}
    """
    return map_arrays(lambda _: next(values), template)


def stack(values: Sequence[Any]) -> Any:
    """Stack the arrays of samples.

    >>> stack([(0, 1.5), (2, 3.5)])
    (array([0, 2]), array([1.5, 3.5]))
    """
    return map_arrays(lambda *parts: np.stack(parts), *values)


def concatenate(values: Sequence[Any]) -> Any:
    """Concatenate the arrays of batches along the first axis.

    >>> concatenate([{"x": np.ones((2, 3))}, {"x": np.ones((1, 3))}])["x"].shape
    (3, 3)
    """
    return map_arrays(lambda *parts: np.concatenate(parts), *values)


def take(value: Any, index: Any) -> Any:
    """Return the arrays indexed along the first axis.

    >>> take({"x": np.array([5, 6, 7])}, 1)
    {'x': np.int64(6)}
    """
    return map_arrays(lambda array: array[index], value)


def length(value: Any) -> int:
    """Return the number of samples: the length of the first axis.

    >>> length({"x": np.zeros((4, 2))})
    4
    """
    return len(next(arrays(value)))
