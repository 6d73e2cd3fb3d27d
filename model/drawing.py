"""Detections drawn into an image, and an image file that appears whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from model.whole_file import write_whole

_GOLDEN = 0.61803398875
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def colour_of(category: int) -> tuple[int, int, int]:
    """A colour (r, g, b) that neighbouring category ids do not share."""
    hue = int(category * _GOLDEN % 1.0 * 180)
    pixel = cv2.cvtColor(np.uint8([[[hue, 220, 230]]]), cv2.COLOR_HSV2RGB)
    return tuple(int(level) for level in pixel[0, 0])  # type: ignore[return-value]


def draw(pixels: np.ndarray, rows: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Return a copy of (H, W, 3) uint8 RGB with box, class and score of every row.

    `rows` (k, 7) are `model.decode.DETECTION_COLUMNS` of this image; the best is drawn last.
    """
    picture = np.ascontiguousarray(pixels).copy()
    height, width = picture.shape[:2]
    thick = max(1, round(max(height, width) / 400))
    for row in rows[np.argsort(rows[:, 6], kind="stable")]:
        category = int(row[1])
        far = np.minimum(row[2:4] + row[4:6], (width - 1, height - 1))
        low, high = row[2:4].round().astype(int).tolist(), far.round().astype(int).tolist()
        colour = colour_of(category)
        cv2.rectangle(picture, low, high, colour, thick)
        _write(picture, f"{names.get(category, category)} {row[6]:.2f}", low, colour, thick)
    return picture


def _write(
    picture: np.ndarray, text: str, corner: Sequence[int], colour: tuple[int, ...], thick: int
) -> None:
    """Write on a ground of `colour`, above `corner` where there is room, else below it."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no more
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * max(thick, 1)
    (width, height), below = cv2.getTextSize(text, font, scale, thick)
    left = max(0, min(corner[0], picture.shape[1] - width))
    base = corner[1] - below if corner[1] > height + below else corner[1] + height + thick
    ground = (left, base - height - thick), (left + width, base + below)
    cv2.rectangle(picture, *ground, colour, cv2.FILLED)
    ink = _BLACK if sum(colour) > 380 else _WHITE
    cv2.putText(picture, text, (left, base), font, scale, ink, thick, cv2.LINE_AA)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the name's ending; raises OSError."""
    try:
        good, content = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    except cv2.error:
        good = False
    if not good:
        raise OSError(errno.EINVAL, f"no {path.suffix} can be made of these pixels", str(path))
    write_whole(path, content.tobytes())


def drawn_name(folder: Path, source: Path, taken: set[Path]) -> Path:
    """A name in `folder` for the drawing of `source` that is not `taken` yet; notes it there."""
    number, path = 1, folder / f"{source.stem}_detected.jpg"
    while path in taken:
        number += 1
        path = folder / f"{source.stem}_detected-{number}.jpg"
    taken.add(path)
    return path
