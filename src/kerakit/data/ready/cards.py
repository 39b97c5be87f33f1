"""Cards with handwritten digits on crops of photographs: images whose labels are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

DIGITS = ("zero", "one", "two", "three", "four")
"""Class names of the digits."""

BACKGROUND, CARD, INK = 0, 1, 2
"""Values of the pixels of a mask."""

_CANVAS = 64  # pixels per side of a card before it is moved to its place
_INK_SIDE = 52  # of these, those of the digit
_ATTEMPTS = 100  # to place a card beside others


@dataclass(frozen=True)
class Card:
    """A square card with a digit.

    Attributes:
        digit: index in ``DIGITS``.
        side: length of a side in pixels.
        corners: float64 (4, 2), x, y in pixels of the image: top left, top right, bottom right,
            bottom left, as seen by a reader of the digit.
    """

    digit: int
    side: float
    corners: NDArray[np.float64]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the enclosing box in pixels."""
        (x1, y1), (x2, y2) = self.corners.min(axis=0).tolist(), self.corners.max(axis=0).tolist()
        return x1, y1, x2, y2


@dataclass(frozen=True)
class Scene:
    """An image with cards.

    Attributes:
        image: uint8 (size, size, 3).
        mask: uint8 (size, size): BACKGROUND, CARD or INK.
        cards: as they are on the image, none of them covered.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    cards: tuple[Card, ...]


def draw_scene(
    rng: np.random.Generator,
    size: int,
    digits: Sequence[int],
    sides: tuple[float, float],
    angle: float,
) -> Scene:
    """Draw cards on a crop of a photograph.

    Args:
        rng: source of all randomness.
        size: width and height of the image in pixels.
        digits: index in ``DIGITS`` of each card.
        sides: range of the sides of cards in pixels.
        angle: largest rotation of a card in degrees, in either direction.

    >>> scene = draw_scene(np.random.default_rng(0), 96, [3, 4], (24, 36), 10)
    >>> scene.image.shape, [DIGITS[card.digit] for card in scene.cards]
    ((96, 96, 3), ['three', 'four'])
    """
    image, mask = _draw_photo(rng, size), np.full((size, size), BACKGROUND, np.uint8)
    cards: list[Card] = []
    for digit in digits:
        for _ in range(_ATTEMPTS):
            card = _place(rng, size, digit, sides, angle)
            if not any(_overlap(card, other) for other in cards):
                _draw_card(rng, card, image, mask)
                cards.append(card)
                break
    return Scene(image, mask, tuple(cards))


def _place(
    rng: np.random.Generator, size: int, digit: int, sides: tuple[float, float], angle: float
) -> Card:
    """Return a card at a random place inside of the image."""
    side = rng.uniform(*sides)
    turn = math.radians(rng.uniform(-angle, angle))
    axis = np.array([math.cos(turn), math.sin(turn)]) * side / 2
    down = np.array([-axis[1], axis[0]])
    corners = np.array([-axis - down, axis - down, axis + down, down - axis])
    reach = float(np.abs(corners).max())
    return Card(digit, side, corners + rng.uniform(reach, size - reach, 2))


def _overlap(one: Card, other: Card) -> bool:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = one.box, other.box
    return min(ax2, bx2) > max(ax1, bx1) and min(ay2, by2) > max(ay1, by1)


def _draw_photo(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Return a random square of a photograph, mirrored by chance."""
    photos = _photos()
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(size, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    square = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        square = square[:, ::-1]
    resized = cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _draw_card(
    rng: np.random.Generator, card: Card, image: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> None:
    """Draw a card into an image and its mask."""
    size = len(image)
    ink = _ink(card.digit, rng)[..., None]
    paper_color, ink_color = _colors(rng)
    canvas = paper_color + ink * (ink_color - paper_color)
    # Edges of the canvas to corners; positions are half a pixel from pixel centers.
    edges = np.array([[0, 0], [_CANVAS, 0], [_CANVAS, _CANVAS]])
    matrix = cv2.getAffineTransform(np.float32(edges - 0.5), np.float32(card.corners[:3] - 0.5))
    layers = np.dstack([canvas, np.ones((_CANVAS, _CANVAS, 1)), ink]).astype(np.float32)
    moved = np.dstack(
        [
            cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR)
            for part in (layers[..., :4], layers[..., 4])
        ]
    )
    cover = moved[..., 3:4]
    image[:] = np.round(image * (1 - cover) + moved[..., :3]).astype(np.uint8)
    inside = cover[..., 0] > 0.5
    mask[inside] = CARD
    mask[inside & (moved[..., 4] > 0.5)] = INK


def _colors(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a light and a dark color, float64 (3,), of paper and ink or the reverse."""
    light, dark = rng.uniform(170, 255, 3), rng.uniform(0, 80, 3)
    return (light, dark) if rng.random() < 0.5 else (dark, light)


def _ink(digit: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a handwritten digit on a card, from 0 (paper) to 1, float64 (canvas, canvas)."""
    drawings = _drawings()[digit]
    drawing = drawings[rng.integers(len(drawings))]
    ink = np.zeros((_CANVAS, _CANVAS))
    margin = (_CANVAS - _INK_SIDE) // 2
    inner = slice(margin, margin + _INK_SIDE)
    large = cv2.resize(drawing, (_INK_SIDE, _INK_SIDE), interpolation=cv2.INTER_CUBIC)
    ink[inner, inner] = np.clip(large * 1.3, 0, 1)
    return ink


@cache
def _drawings() -> list[NDArray[np.float64]]:
    """Return the drawings of each of ``DIGITS``, from 0 to 1, float64 (n, 8, 8)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return [digits.images[digits.target == digit] / 16 for digit in range(len(DIGITS))]


@cache
def _photos() -> list[NDArray[np.uint8]]:
    """Return the photographs of scikit-learn: a temple and a flower."""
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
