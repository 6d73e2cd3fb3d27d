"""The targets of one image as the peer of `input_pipeline` makes them: a loop over boxes and heads.

Centres are floored to whole pixels, the anchor of nine that overlaps a box most takes it, the
padded boxes of each head are gathered from its occupied cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MEMBERS = ((6, 7, 8), (3, 4, 5), (0, 1, 2))


def targets(
    boxes: Any, anchors: Sequence[tuple[float, float]], side: int, classes: int, max_boxes: int
) -> tuple[Any, ...]:
    """Three targets, then the padded boxes of the three heads."""
    boxes = np.array(boxes, dtype="float32")
    shape = np.array((side, side), dtype="int32")
    extent = boxes[..., 2:4] - boxes[..., 0:2]
    centre = (boxes[..., 0:2] + boxes[..., 2:4]) // 2.0
    boxes[..., 0:2], boxes[..., 2:4] = centre / shape, extent / shape
    grids = [side // 32, side // 16, side // 8]
    heads = [np.zeros((g, g, 3, 5 + classes), dtype="float32") for g in grids]
    real = extent[extent[..., 0] > 0]
    if real.size:
        for index, anchor in enumerate(_best(real, np.array(anchors))):
            for head, grid, members in zip(heads, grids, MEMBERS, strict=True):
                if anchor in members:
                    _occupy(head, grid, members.index(anchor), boxes[index])
    return *heads, *(_gathered(head, max_boxes) for head in heads)


def _best(extent: Any, anchors: Any) -> Any:
    """The anchor that overlaps each box most, both centred."""
    boxes, anchors = np.expand_dims(extent, -2), np.expand_dims(anchors, 0)
    low = np.maximum(-boxes / 2.0, -anchors / 2.0)
    high = np.minimum(boxes / 2.0, anchors / 2.0)
    shared_sides = np.maximum(high - low, 0.0)
    shared = shared_sides[..., 0] * shared_sides[..., 1]
    areas = boxes[..., 0] * boxes[..., 1] + anchors[..., 0] * anchors[..., 1]
    return np.argmax(shared / (areas - shared), axis=-1)


def _occupy(head: Any, grid: int, anchor: int, box: Any) -> None:
    column = np.floor(box[0] * grid).astype("int32")
    row = np.floor(box[1] * grid).astype("int32")
    head[row, column, anchor, 0:4] = box[0:4]
    head[row, column, anchor, 4] = 1.0
    head[row, column, anchor, 5 + box[4].astype("int32")] = 1.0


def _gathered(head: Any, max_boxes: int) -> Any:
    padded = np.zeros((max_boxes, 4), np.float32)
    occupied = np.reshape(head[..., 4:5], [-1])
    found = np.reshape(head[..., 0:4], [-1, 4])[occupied == 1]
    padded[: found.shape[0]] = found
    return padded
