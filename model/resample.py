"""Resizing of 8-bit images with the antialiasing kernels of the Python imaging libraries.

The ModelZoo trainer resizes with Pillow, whose kernels widen when an image shrinks and whose cubic
has a = -0.5; OpenCV's do neither. Here the same function in NumPy: weights in fixed point, columns
first, rounded to 8 bits in between. Only a window of the result is computed if that is all that is
looked at, which for the training augmentation saves most of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NEAREST, BILINEAR, BICUBIC, LANCZOS = "nearest", "bilinear", "bicubic", "lanczos"
_FRACTION_BITS = 22
_CUBIC_A = -0.5
_CACHED_VALUES = 1 << 15

Window = tuple[int, int, int, int]
"""Left, top, right, bottom (the last two exclusive) in pixels of the result."""


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((_CUBIC_A + 2.0) * x - (_CUBIC_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _CUBIC_A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _windowed_sinc(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3.0), 0.0)


_KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    BILINEAR: (_triangle, 1.0),
    BICUBIC: (_cubic, 2.0),
    LANCZOS: (_windowed_sinc, 3.0),
}


@dataclass(frozen=True, eq=False)
class _Taps:
    """For each output position: source positions (n, k), fixed-point weights (n, k)."""

    positions: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=256)
def _taps(source: int, target: int, method: str) -> _Taps:
    """Return the taps of one axis that goes from ``source`` to ``target`` pixels."""
    kernel, reach = _KERNELS[method]
    scale = source / target
    widening = max(scale, 1.0)
    support = reach * widening
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum(np.trunc(centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum(np.trunc(centre + support + 0.5).astype(np.int64), source)
    positions = first[:, None] + np.arange(int((stop - first).max()))
    weights = kernel((positions - centre[:, None] + 0.5) / widening)
    weights = np.where(positions < stop[:, None], weights, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    scaled = weights * (1 << _FRACTION_BITS)
    fixed = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    return _Taps(np.minimum(positions, source - 1), fixed)


@lru_cache(maxsize=256)
def _nearest(source: int, target: int) -> np.ndarray:
    """Return the source position of each output position, by a running sum as Pillow's."""
    steps = np.full(target, source / target)
    steps[0] *= 0.5
    return np.minimum(np.add.accumulate(steps).astype(np.int64), source - 1)


def _weighted(image: np.ndarray, taps: _Taps, start: int, stop: int) -> np.ndarray:
    """Resample the first axis of an (n, ...) 8-bit array to positions ``start`` ... ``stop``.

    Goes a few rows at a time so that the sums stay in the processor's cache.
    """
    flat = image.reshape(len(image), -1).astype(np.int32)
    result = np.empty((stop - start, flat.shape[1]), np.uint8)
    rows = max(1, _CACHED_VALUES // flat.shape[1])
    for low in range(start, stop, rows):
        chunk = slice(low, min(low + rows, stop))
        positions, weights = taps.positions[chunk], taps.weights[chunk]
        total = np.full((len(positions), flat.shape[1]), 1 << (_FRACTION_BITS - 1), np.int32)
        for tap in range(positions.shape[1]):
            term = flat[positions[:, tap]]
            term *= weights[:, tap, None]
            total += term
        total >>= _FRACTION_BITS
        np.clip(total, 0, 255, out=total)
        result[low - start : low - start + len(total)] = total
    return result.reshape(stop - start, *image.shape[1:])


def resize(
    image: np.ndarray, width: int, height: int, method: str, window: Window | None = None
) -> np.ndarray:
    """Resize ``image`` (H, W, 3) uint8 to ``width`` x ``height`` pixels, or a window of that.

    ``method`` is "nearest", "bilinear", "bicubic" or "lanczos". Returns (height, width, 3) uint8,
    or the part of it inside ``window``. Raises KeyError for an unknown method.
    """
    left, top, right, bottom = window or (0, 0, width, height)
    old_height, old_width = image.shape[:2]
    if (old_width, old_height) == (width, height):
        return image[top:bottom, left:right]
    if method == NEAREST:
        rows, columns = _nearest(old_height, height), _nearest(old_width, width)
        return image[rows[top:bottom]][:, columns[left:right]]
    row_taps = _taps(old_height, height, method)
    needed = row_taps.positions[top:bottom]
    first, stop = int(needed.min()), int(needed.max()) + 1
    part = image[first:stop].transpose(1, 0, 2)
    part = _weighted(part, _taps(old_width, width, method), left, right).transpose(1, 0, 2)
    shifted = _Taps(row_taps.positions - first, row_taps.weights)
    return _weighted(part, shifted, top, bottom)
