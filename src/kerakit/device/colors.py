"""Colors of classes and points in drawings, for the engine and for devices.

Needs Python 3.7 only: it is copied into device bundles.
"""

from __future__ import annotations

# "List of 20 simple, distinct colors" (Sasha Trubetskoy, 2017), the most distinct ones first.
_COLORS = (
    *((67, 99, 216), (230, 25, 75), (255, 225, 25), (128, 128, 128), (245, 130, 49)),
    *((60, 180, 75), (145, 30, 180), (170, 110, 40), (66, 212, 244), (240, 50, 230)),
    *((0, 0, 117), (191, 239, 69), (128, 0, 0), (70, 153, 144), (250, 190, 212)),
    *((220, 190, 255), (255, 250, 200), (170, 255, 195), (128, 128, 0), (255, 216, 177)),
)


def color(index: int) -> tuple[int, int, int]:
    """Return red, green and blue of a class or point, from 0 to 255.

    >>> color(0), color(20)
    ((67, 99, 216), (0, 64, 128))
    """
    if index < len(_COLORS):
        return _COLORS[index]
    # The bits of the index are spread over the channels, as in the masks of Pascal VOC.
    red, green, blue, rest = 0, 0, 0, index
    for bit in range(7, -1, -1):
        red |= (rest & 1) << bit
        green |= (rest >> 1 & 1) << bit
        blue |= (rest >> 2 & 1) << bit
        rest >>= 3
    return red, green, blue
