"""Splits as text, in the index of shards."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.index import UNASSIGNED
from kerakit.data.split import MODES


def split_names(splits: NDArray[np.int8]) -> pa.Array:
    """Return indices into MODES as text, null for UNASSIGNED.

    >>> split_names(np.array([0, -1], np.int8)).to_pylist()
    ['train', None]
    """
    codes = pa.array(splits.astype(np.int32), mask=splits == UNASSIGNED)
    return pa.array(MODES).take(codes)


def split_indices(names: pa.ChunkedArray) -> NDArray[np.int8]:
    """Return text as indices into MODES, UNASSIGNED for nulls, int8 (n,)."""
    found = pc.index_in(names.combine_chunks(), value_set=pa.array(MODES))
    splits: NDArray[np.int8] = pc.fill_null(found, UNASSIGNED).to_numpy().astype(np.int8)
    return splits
