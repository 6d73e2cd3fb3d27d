"""What happens to an image and its boxes before the network sees them.

Evaluation squeezes an image to the square input; training also stretches, scales, places, flips
and recolours it. Everything random comes from the generator that is passed in, which
:func:`sample_generator` makes a pure function of (seed, epoch, image id). The numbers follow the
ModelZoo's transforms.py (lines in the comments), the exceptions are said where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from model.resample import BICUBIC, BILINEAR, LANCZOS, NEAREST, resize

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
GREY = 128
SMALLEST_SCALE, LARGEST_SCALE = 0.25, 2.0
MAX_TRIALS = 10
_TRAINING_METHODS = (NEAREST, BILINEAR, BICUBIC, NEAREST, LANCZOS)
_UNSIGNED = (1 << 64) - 1


@dataclass(frozen=True)
class AugmentationSettings:
    """How far training images are altered; the original's numbers."""

    max_boxes: int = 50
    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    value: float = 1.5


@dataclass(frozen=True)
class Placement:
    """Where a resized image lies in the square input, in pixels, before a possible flip."""

    x: int
    y: int
    width: int
    height: int
    flip: bool


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What was drawn for one image, and what becomes of its boxes.

    ``method`` resizes, ``colours`` are tables for :func:`recolour`; ``boxes`` (m, 5) are x1, y1,
    x2, y2, class in pixels of the input.
    """

    placement: Placement
    method: str
    colours: np.ndarray
    boxes: np.ndarray


def sample_generator(seed: int, epoch: int, image_id: int, *stream: int) -> np.random.Generator:
    """Return the generator of one image in one epoch; no other state enters.

    Without ``stream`` it augments; a number there gives another one, independent of it.
    """
    words = [number & _UNSIGNED for number in (seed, epoch, image_id)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words, spawn_key=stream)))


@lru_cache(maxsize=1)
def _normalised_levels() -> np.ndarray:
    """Return (3, 256) float32: channel and 8-bit level to normalised value."""
    levels = np.arange(256) / 255.0
    tables = [(levels - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)]
    return np.array(tables, dtype=np.float32)


def normalise(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Turn (H, W, 3) uint8 RGB into (3, H, W) float32 by the ImageNet mean and deviation.

    ``out`` is where the result goes, if it is given: a contiguous array.
    """
    result = np.empty((3, *image.shape[:2]), np.float32) if out is None else out
    planes = cv2.split(np.ascontiguousarray(image))
    for table, plane, place in zip(_normalised_levels(), planes, result, strict=True):
        cv2.LUT(plane, table[None], dst=place)
    return result


def evaluation_method(old_size: tuple[int, int], new_size: tuple[int, int]) -> str:
    """Choose nearest when both sides shrink, bicubic when both grow, else bilinear (:112)."""
    grows = [new > old for old, new in zip(old_size, new_size, strict=True)]
    shrinks = [new < old for old, new in zip(old_size, new_size, strict=True)]
    if all(grows):
        return BICUBIC
    return NEAREST if all(shrinks) else BILINEAR


def evaluation_input(image: np.ndarray, side: int) -> np.ndarray:
    """Squeeze (H, W, 3) uint8 RGB to the square and normalise: (3, side, side) float32."""
    height, width = image.shape[:2]
    method = evaluation_method((width, height), (side, side))
    return normalise(resize(image, side, side, method))


def distort_colour(
    image: np.ndarray, hue_shift: float, saturation_factor: float, value_factor: float
) -> np.ndarray:
    """Shift the hue (in turns) and scale saturation and value of (H, W, 3) uint8 RGB."""
    return recolour(image, colour_tables(hue_shift, saturation_factor, value_factor))


def colour_tables(hue_shift: float, saturation_factor: float, value_factor: float) -> np.ndarray:
    """Return (1, 256, 3) uint8: 8-bit hue, saturation and value to what becomes of them."""
    levels = np.arange(256) / 255.0
    hue = levels + hue_shift
    hue = np.where(hue > 1.0, hue - 1.0, np.where(hue < 0.0, hue + 1.0, hue))
    tables = np.stack([hue, levels * saturation_factor, levels * value_factor], axis=-1)
    return (np.clip(tables, 0.0, 1.0) * 255.0).astype(np.uint8)[None]


def recolour(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Put (H, W, 3) uint8 RGB through tables of hue, saturation and value."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    return cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2RGB_FULL)


def _factor(rng: np.random.Generator, limit: float) -> float:
    """Draw a factor between 1 and ``limit``, or one over such a factor, with equal chances."""
    larger = rng.random() < 0.5
    factor = rng.uniform(1.0, limit)
    return factor if larger else 1.0 / factor


def draw_colours(rng: np.random.Generator, settings: AugmentationSettings) -> np.ndarray:
    """Draw how the colours of an image are distorted; returns tables for :func:`recolour`."""
    hue_shift = rng.uniform(-settings.hue, settings.hue)
    saturation_factor = _factor(rng, settings.saturation)
    return colour_tables(hue_shift, saturation_factor, _factor(rng, settings.value))


def _draw_placement(rng: np.random.Generator, side: int, jitter: float, *, flip: bool) -> Placement:
    """Draw size and place. The aspect starts from the input's, not the image's (:302)."""
    aspect = rng.uniform(1 - jitter, 1 + jitter) / rng.uniform(1 - jitter, 1 + jitter)
    scale = rng.uniform(SMALLEST_SCALE, LARGEST_SCALE)
    longer = int(scale * side)
    width, height = (int(longer * aspect), longer) if aspect < 1 else (longer, int(longer / aspect))
    width, height = max(width, 1), max(height, 1)
    # int() cuts towards zero, which is also right of a negative offset in the original.
    x, y = (int((side - size) * rng.random()) for size in (width, height))
    return Placement(x, y, width, height, flip)


def place_boxes(
    boxes: np.ndarray, image_size: tuple[int, int], placement: Placement, side: int
) -> np.ndarray:
    """Move boxes (n, 5) from image pixels to input pixels; ``image_size`` is (width, height).

    They are clipped to the input; what is no larger than a pixel either way is dropped.
    """
    moved = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    moved[:, [0, 2]] = moved[:, [0, 2]] * placement.width / image_size[0] + placement.x
    moved[:, [1, 3]] = moved[:, [1, 3]] * placement.height / image_size[1] + placement.y
    if placement.flip:
        moved[:, [0, 2]] = side - moved[:, [2, 0]]
    moved[:, 0:2] = np.maximum(moved[:, 0:2], 0.0)
    moved[:, 2:4] = np.minimum(moved[:, 2:4], side)
    extent = moved[:, 2:4] - moved[:, 0:2]
    return moved[(extent > 1.0).all(axis=1)]


def choose_placement(
    rng: np.random.Generator,
    boxes: np.ndarray,
    image_size: tuple[int, int],
    side: int,
    jitter: float,
) -> tuple[Placement, np.ndarray]:
    """Draw placements until one keeps a box; return it with the boxes it keeps.

    After ten trials the image fills the input. Unlike in the original an image without a box, or
    whose boxes vanish there too, is no error: it comes back without boxes, a negative.
    """
    flip = bool(rng.random() < 0.5)
    for _ in range(MAX_TRIALS):
        placement = _draw_placement(rng, side, jitter, flip=flip)
        kept = place_boxes(boxes, image_size, placement, side)
        if len(kept) or not len(boxes):
            return placement, kept
    placement = Placement(0, 0, side, side, flip)
    return placement, place_boxes(boxes, image_size, placement, side)


def visible_part(image: np.ndarray, placement: Placement, side: int, method: str) -> np.ndarray:
    """Resize (H, W, 3) uint8 and return what of it lies inside the input; nothing else is made."""
    left, top = max(0, -placement.x), max(0, -placement.y)
    right = min(placement.width, side - placement.x)
    bottom = min(placement.height, side - placement.y)
    window = (left, top, right, bottom)
    return resize(image, placement.width, placement.height, method, window)


def framed(
    part: np.ndarray, placement: Placement, side: int, border: Sequence[float]
) -> np.ndarray:
    """Put the visible part on a square (side, side, 3) of the colour ``border``, and flip it."""
    left, top = max(0, placement.x), max(0, placement.y)
    right, bottom = side - left - part.shape[1], side - top - part.shape[0]
    square = cv2.copyMakeBorder(
        part, top, bottom, left, right, cv2.BORDER_CONSTANT, value=border
    )  # fmt: skip
    return cv2.flip(square, 1) if placement.flip else square


def draw_augmentation(
    rng: np.random.Generator,
    boxes: np.ndarray,
    image_size: tuple[int, int],
    side: int,
    settings: AugmentationSettings,
) -> Augmentation:
    """Draw what happens to an image of (width, height); its boxes (n, 5) are in its pixels.

    Of the boxes at most ``settings.max_boxes`` are kept, in random order (it decides which of two
    objects keeps a shared cell).
    """
    boxes = rng.permutation(boxes)[: settings.max_boxes]
    placement, kept = choose_placement(rng, boxes, image_size, side, settings.jitter)
    method = _TRAINING_METHODS[rng.integers(len(_TRAINING_METHODS))]
    return Augmentation(placement, method, draw_colours(rng, settings), kept)


def augmented(
    image: np.ndarray, drawn: Augmentation, side: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Make the network's input (3, side, side) float32, in ``out`` if that is given.

    ``image`` is (H, W, 3) uint8 RGB. The grey border is recoloured with it, as in the original
    (:417), but as one pixel.
    """
    part = recolour(visible_part(image, drawn.placement, side, drawn.method), drawn.colours)
    border = recolour(np.full((1, 1, 3), GREY, np.uint8), drawn.colours)[0, 0]
    return normalise(framed(part, drawn.placement, side, border.tolist()), out)
