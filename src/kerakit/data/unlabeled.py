"""Images without annotations, for predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kerakit.data.split import Mode


class UnlabeledReader:
    """A ``Reader`` of image files without annotations: every target is None.

    Args:
        paths: paths of the images.
        class_names: in the order of the model's outputs.

    >>> reader = UnlabeledReader([Path("photo.jpg")], ["cat", "dog"])
    >>> reader.key(0), reader.target(0)
    ('photo.jpg', None)
    """

    def __init__(self, paths: Sequence[Path], class_names: Sequence[str]) -> None:
        self._paths = paths
        self.class_names = tuple(class_names)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def key(self, i: int) -> str:
        """Return the path as text."""
        return str(self._paths[i])

    def image_path(self, i: int) -> Path:
        """Return the path."""
        return self._paths[i]

    def target(self, i: int) -> None:  # noqa: ARG002
        """Return None."""
        return

    def indices(self, mode: Mode) -> NDArray[np.int64]:  # noqa: ARG002
        """Return all indices, whatever the mode."""
        return np.arange(len(self._paths))
