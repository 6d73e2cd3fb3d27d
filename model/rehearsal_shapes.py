"""Pictures for rehearsals: textured shapes on noisy backgrounds, each a function of its seed.

Four classes that differ in outline and in texture; colour helps but does not decide. The table
:class:`Difficulty` holds every number that makes the task easier or harder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLING = 2
REACH = 1.21
"""How far a shape reaches from its centre in units of its radius: the corners of the square."""
PLACING_TRIALS = 40


@dataclass(frozen=True)
class Difficulty:
    """How hard the pictures are; sizes are fractions of the picture's side."""

    object_chances: tuple[float, ...] = (0.65, 0.28, 0.07)
    """Chances of one, two, three objects."""
    smallest: float = 0.40
    largest: float = 0.60
    rotation: float = 10.0
    """Degrees either way."""
    largest_overlap: float = 0.05
    """Of one object's box with another's, as intersection over union."""
    colour_hint: float = 0.9
    """Chance that an object has its class's own hue instead of any."""
    saturation: tuple[int, int] = (150, 240)
    """Of an object's colours; pale ones say less about their hue."""
    contrast: tuple[int, int] = (100, 160)
    """Difference in brightness between the two colours of a texture."""
    background: tuple[int, int] = (95, 160)
    """Darkest and brightest level of the background's patches."""
    patches: int = 5
    """Patches of the background along a side."""
    noise: float = 6.0
    """Standard deviation of the noise over everything, in levels."""
    distractors: int = 3
    """At most so many lines and specks behind the objects."""
    distractor_size: float = 0.10


Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Boolean (n, n) from the coordinates u, v that run from -1 to 1 over the shape."""


@dataclass(frozen=True)
class ShapeClass:
    """One class: its id in the annotations, name, outline, texture, preferred hue (0 to 179)."""

    id: int
    name: str
    outline: Pattern
    texture: Pattern
    hue: int


def _alternate(x: np.ndarray, periods: float) -> np.ndarray:
    return np.floor(x * periods).astype(np.int64) % 2 == 0


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.85


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _alternate(u, 2.4) ^ _alternate(v, 2.4)


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v <= 1.0


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _alternate(u, 2.5)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v <= 0.85) & (v >= 2.0 * np.abs(u) - 0.95)


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = (u * 2.2) % 1.0 - 0.5, (v * 2.2) % 1.0 - 0.5
    return across * across + down * down > 0.09


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.minimum(np.abs(u), np.abs(v)) <= 0.33) & (np.maximum(np.abs(u), np.abs(v)) <= 1.0)


def _frame(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(u), np.abs(v)) > 0.16


CLASSES = (
    ShapeClass(1, "checkered_square", _square, _checks, 0),
    ShapeClass(3, "striped_circle", _disc, _stripes, 45),
    ShapeClass(6, "dotted_triangle", _triangle, _dots, 90),
    ShapeClass(10, "framed_cross", _cross, _frame, 135),
)
"""Ids with gaps, as COCO's, so that whoever takes an id for an index is found out."""


@dataclass(frozen=True)
class Picture:
    """One picture (size, size, 3) uint8 BGR with its objects: category id, x, y, width, height."""

    pixels: np.ndarray
    objects: tuple[tuple[int, float, float, float, float], ...]


def _background(rng: np.random.Generator, size: int, difficulty: Difficulty) -> np.ndarray:
    low, high = difficulty.background
    patches = rng.integers(low, high, (difficulty.patches, difficulty.patches, 3))
    canvas = cv2.resize(patches.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _distract(rng: np.random.Generator, canvas: np.ndarray, difficulty: Difficulty) -> None:
    """Draw lines and specks on ``canvas`` in place."""
    size = len(canvas)
    for _ in range(rng.integers(0, difficulty.distractors + 1)):
        colour = [int(level) for level in rng.integers(0, 256, 3)]
        start, end = ([int(c) for c in rng.integers(0, size, 2)] for _ in range(2))
        if rng.random() < 0.5:
            cv2.line(canvas, start, end, colour, SUPERSAMPLING)
        else:
            longest = size * difficulty.distractor_size
            axes = [1 + int(longest * f) for f in rng.uniform(0.2, 0.5, 2)]
            cv2.ellipse(canvas, start, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)


def _colours(
    rng: np.random.Generator, shape: ShapeClass, difficulty: Difficulty
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the bright and the dark colour (3,) uint8 BGR of one object."""
    hinted = rng.random() < difficulty.colour_hint
    hue = (shape.hue + rng.integers(-8, 9)) % 180 if hinted else rng.integers(0, 180)
    contrast = int(rng.integers(*difficulty.contrast))
    bright = int(rng.integers(200, 256))
    saturation = int(rng.integers(*difficulty.saturation))
    pair = np.array([[[hue, saturation, bright], [hue, saturation, bright - contrast]]], np.uint8)
    first, second = cv2.cvtColor(pair, cv2.COLOR_HSV2BGR)[0]
    return first, second


@dataclass(frozen=True, eq=False)
class _Cutout:
    """The part of the canvas around one object: its corner, the mask, the coordinates u, v."""

    left: int
    top: int
    mask: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def box(self) -> tuple[float, float, float, float]:
        """Return x, y, width, height of the mask in pixels of the final picture."""
        columns = np.flatnonzero(self.mask.any(axis=0)) + self.left
        rows = np.flatnonzero(self.mask.any(axis=1)) + self.top
        edges = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
        x, y, width, height = (round(float(edge) / SUPERSAMPLING, 2) for edge in edges)
        return x, y, width, height


def _cut_out(
    shape: ShapeClass, centre: tuple[float, float], radius: float, degrees: float
) -> _Cutout:
    """Lay a shape on the canvas; ``centre`` and ``radius`` in pixels of the canvas."""
    left, top = (int(c - radius * REACH) for c in centre)
    size = int(2 * radius * REACH) + 1
    across = (np.arange(size)[None, :] + left + 0.5 - centre[0]) / radius
    down = (np.arange(size)[:, None] + top + 0.5 - centre[1]) / radius
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = across * cosine + down * sine, down * cosine - across * sine
    return _Cutout(left, top, shape.outline(u, v), u, v)


def _draw(
    canvas: np.ndarray, shape: ShapeClass, cutout: _Cutout, colours: tuple[np.ndarray, np.ndarray]
) -> None:
    """Paint one object on ``canvas`` in place."""
    height, width = cutout.mask.shape
    part = canvas[cutout.top : cutout.top + height, cutout.left : cutout.left + width]
    texture = shape.texture(cutout.u, cutout.v)
    part[cutout.mask & texture] = colours[0]
    part[cutout.mask & ~texture] = colours[1]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def draw_picture(rng: np.random.Generator, size: int, difficulty: Difficulty) -> Picture:
    """Draw one picture of ``size`` x ``size`` pixels with one to three whole objects.

    A further object for which there is no room after forty trials is left out.
    """
    fine = size * SUPERSAMPLING
    canvas = _background(rng, fine, difficulty)
    _distract(rng, canvas, difficulty)
    wanted = 1 + int(rng.choice(len(difficulty.object_chances), p=difficulty.object_chances))
    objects: list[tuple[int, float, float, float, float]] = []
    for _ in range(PLACING_TRIALS * wanted):
        if len(objects) == wanted:
            break
        shape = CLASSES[rng.integers(len(CLASSES))]
        radius = fine * float(rng.uniform(difficulty.smallest, difficulty.largest)) / 2
        margin = radius * REACH + 1
        x, y = (float(c) for c in rng.uniform(margin, fine - margin, 2))
        degrees = float(rng.uniform(-difficulty.rotation, difficulty.rotation))
        cutout = _cut_out(shape, (x, y), radius, degrees)
        box = cutout.box()
        if any(_overlap(box, other[1:]) > difficulty.largest_overlap for other in objects):
            continue
        _draw(canvas, shape, cutout, _colours(rng, shape, difficulty))
        objects.append((shape.id, *box))
    pixels = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float64)
    pixels += rng.normal(0.0, difficulty.noise, pixels.shape)
    return Picture(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), tuple(objects))
