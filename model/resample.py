"""Resizing of 8-bit images by Pillow, as the ModelZoo trainer does; or a window of the result.

Columns are resampled first and rounded to 8 bits, then rows: the order of the Pillow that the
original was written for, which newer ones choose by the sizes. Pillow works without Python's lock.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

NEAREST, BILINEAR, BICUBIC, LANCZOS = "nearest", "bilinear", "bicubic", "lanczos"

_METHODS = {
    NEAREST: (Image.Resampling.NEAREST, 1.0),
    BILINEAR: (Image.Resampling.BILINEAR, 1.0),
    BICUBIC: (Image.Resampling.BICUBIC, 2.0),
    LANCZOS: (Image.Resampling.LANCZOS, 3.0),
}
"""Pillow's filter, and how far it reaches to either side, in the wider of the two pixels."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom (the last two exclusive) in pixels of the result."""


def resize(
    image: np.ndarray, width: int, height: int, method: str, window: Window | None = None
) -> np.ndarray:
    """Resize ``image`` (H, W, 3) uint8 to ``width`` x ``height`` pixels, or a window of that.

    ``method`` is "nearest", "bilinear", "bicubic" or "lanczos". Returns (height, width, 3) uint8,
    read only, or the part of it inside ``window``. Pillow takes the window's edges in single
    precision: of its pixels about one in a thousand is a level off the whole's. Raises KeyError
    for an unknown method.
    """
    filter_, reach = _METHODS[method]
    left, top, right, bottom = window or (0, 0, width, height)
    x_scale, y_scale = image.shape[1] / width, image.shape[0] / height
    # Rows that no pixel of the window is made of are not even handed over.
    margin = reach * max(y_scale, 1.0) + 1.0
    first = max(0, math.floor(top * y_scale - margin))
    source = Image.fromarray(image[first : math.ceil(bottom * y_scale + margin)])
    columns = (left * x_scale, 0, right * x_scale, source.height)
    narrow = source.resize((right - left, source.height), filter_, columns)
    rows = (0, top * y_scale - first, narrow.width, bottom * y_scale - first)
    return np.asarray(narrow.resize((narrow.width, bottom - top), filter_, rows))
