"""From raw heads to boxes: activation (MindSpore), then confidence and suppression (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES, Architecture

CONFIDENCE = 0.001
OVERLAP = 0.5
DETECTION_COLUMNS = 7
"""Columns of a row of detections: image id, category id, x, y, w, h, score."""


class Decoder(nn.Cell):
    """Raw heads (l, m, s) to boxes and probabilities, computed in float32 whatever comes in.

    Each head (B, 3 * (5 + C), g, g) becomes (B, g, g, 3, 5 + C): centre x, y and size w, h in
    parts of the input, objectness, class probabilities.
    """

    def __init__(self, architecture: Architecture) -> None:
        """Prepare the decoding of all heads."""
        super().__init__()
        self.attributes = architecture.attributes
        self.anchors = tuple(
            tuple(
                (w / STRIDES[head], h / STRIDES[head]) for w, h in architecture.head_anchors(head)
            )
            for head in HEADS
        )
        self.concat = ops.Concat(axis=-1)

    def construct(self, raw_l: Tensor, raw_m: Tensor, raw_s: Tensor) -> tuple[Tensor, ...]:
        """Return the three decoded heads."""
        return (
            self._head(raw_l, self.anchors[0]),
            self._head(raw_m, self.anchors[1]),
            self._head(raw_s, self.anchors[2]),
        )

    def _head(self, raw: Tensor, anchors: tuple) -> Tensor:
        batch, _, grid, _ = raw.shape
        shape = (batch, ANCHORS_PER_HEAD, self.attributes, grid, grid)
        raw = ops.transpose(ops.reshape(ops.cast(raw, ms.float32), shape), (0, 3, 4, 1, 2))
        corner, anchor = _cells(grid, anchors)
        xy = (ops.sigmoid(raw[..., 0:2]) + corner) / grid
        wh = ops.exp(raw[..., 2:4]) * anchor / grid
        return self.concat((xy, wh, ops.sigmoid(raw[..., 4:])))


class DetectionNetwork(nn.Cell):
    """Image in, decoded heads (l, m, s) out: for evaluation, inference and export."""

    def __init__(self, yolo: nn.Cell, decoder: Decoder) -> None:
        """Join network and decoder; sets both to inference.

        The network keeps the parameter names that it has on its own.
        """
        super().__init__(auto_prefix=False)
        self.yolo_network = yolo
        self.decoder = decoder
        self.set_train(False)

    def construct(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, S, S) to three (B, g, g, 3, 5 + C)."""
        raw_l, raw_m, raw_s = self.yolo_network(image)
        return self.decoder(raw_l, raw_m, raw_s)


@constexpr
def _cells(grid: int, anchors: tuple) -> tuple[Tensor, Tensor]:
    """Column and row of every cell (1, g, g, 1, 2); anchors in cells (1, 1, 1, 3, 2)."""
    rows, columns = np.mgrid[:grid, :grid].astype(np.float32)
    corner = np.stack([columns, rows], axis=-1)[None, :, :, None]
    return Tensor(corner), Tensor(np.array(anchors, np.float32)[None, None, None])


def detections(
    heads: Sequence[np.ndarray],
    image_ids: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    category_ids: Sequence[int],
    *,
    confidence: float = CONFIDENCE,
    overlap: float = OVERLAP,
) -> np.ndarray:
    """Turn decoded heads of a batch into rows (k, 7) of `DETECTION_COLUMNS`, float64.

    `heads` are (B, g, g, 3, 5 + C) in any order; `image_sizes` are (width, height) of the original
    images, to which boxes are stretched; `category_ids` maps a class to its id in the data.
    One class, the best, is kept per box; its score is objectness times class. An image without a
    box above `confidence` has no rows. Rows are ordered by image as given, class, falling score;
    boxes of equal score keep the order of heads, cells and anchors.
    """
    rows = [np.zeros((0, DETECTION_COLUMNS))]
    for i, (image_id, size) in enumerate(zip(image_ids, image_sizes, strict=True)):
        flat = np.concatenate([head[i].reshape(-1, head.shape[-1]) for head in heads])
        boxes, scores, classes = candidates(flat, size, confidence)
        kept = suppress(boxes, scores, classes, overlap)
        rows.append(
            np.column_stack(
                [
                    np.full(len(kept), image_id, np.float64),
                    np.asarray(category_ids, np.float64)[classes[kept]],
                    boxes[kept],
                    scores[kept],
                ]
            )
        )
    return np.concatenate(rows)


def candidates(
    decoded: np.ndarray, size: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes of (n, 5 + C) that reach `confidence`, as (k, 4: x, y, w, h), scores and classes.

    Pixels of an image of `size` (width, height). The corner is moved into the image and width and
    height are capped to the image's, each by itself, as in the original.
    """
    # No score is above its objectness, so most boxes need no search for their best class.
    decoded = decoded[decoded[:, 4] >= confidence]
    classes = np.argmax(decoded[:, 5:], axis=1)
    scores = np.take_along_axis(decoded[:, 5:], classes[:, None], axis=1)[:, 0] * decoded[:, 4]
    good = scores >= confidence
    decoded, scores, classes = decoded[good], scores[good].astype(np.float64), classes[good]
    width_height = np.asarray(size, np.float64)
    lengths = decoded[:, 2:4] * width_height
    corner = np.maximum(decoded[:, 0:2] * width_height - lengths / 2, 0.0)
    return np.concatenate([corner, np.minimum(lengths, width_height)], axis=1), scores, classes


def suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, overlap: float = OVERLAP
) -> np.ndarray:
    """Indices of the boxes (k, 4: x, y, w, h) that no better one of their class overlaps.

    Better is a higher score, or the same and an earlier place. Pixels count whole: a box from x
    to x is one wide. The order is by class, then falling score.
    """
    order = np.lexsort((-scores, classes))
    low, high = boxes[order, 0:2], boxes[order, 0:2] + boxes[order, 2:4]
    area = (high - low + 1).prod(axis=1)
    edges = np.flatnonzero(np.diff(classes[order])) + 1
    kept = [
        group[_greedy(low[group], high[group], area[group], overlap)]
        for group in np.split(np.arange(len(order)), edges)
    ]
    return order[np.concatenate(kept)]


def _greedy(low: np.ndarray, high: np.ndarray, area: np.ndarray, overlap: float) -> np.ndarray:
    """Non-maximum suppression of boxes that are already in falling order of score."""
    remaining = np.arange(len(area))
    kept = []
    while len(remaining):
        best, rest = remaining[0], remaining[1:]
        kept.append(best)
        sides = np.minimum(high[best], high[rest]) - np.maximum(low[best], low[rest]) + 1
        shared = np.maximum(sides, 0.0).prod(axis=1)
        remaining = rest[shared <= overlap * (area[best] + area[rest] - shared)]
    return np.array(kept, np.int64)
