"""From raw heads to boxes: activation (MindSpore), then confidence and suppression (NumPy)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES, Architecture

CONFIDENCE = 0.001
OVERLAP = 0.5
_PAIRS_AT_ONCE = 1 << 14
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
        # Most boxes go at once, before anything is copied.
        likely = [_likely(head[i].reshape(-1, head.shape[-1]), confidence) for head in heads]
        boxes, scores, classes = candidates(np.concatenate(likely), size, confidence)
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
    decoded = _likely(decoded, confidence)
    classes = np.argmax(decoded[:, 5:], axis=1)
    scores = np.take_along_axis(decoded[:, 5:], classes[:, None], axis=1)[:, 0] * decoded[:, 4]
    good = scores >= confidence
    decoded, scores, classes = decoded[good], scores[good].astype(np.float64), classes[good]
    width_height = np.asarray(size, np.float64)
    lengths = decoded[:, 2:4] * width_height
    corner = np.maximum(decoded[:, 0:2] * width_height - lengths / 2, 0.0)
    return np.concatenate([corner, np.minimum(lengths, width_height)], axis=1), scores, classes


def _likely(decoded: np.ndarray, confidence: float) -> np.ndarray:
    """Those of (n, 5 + C) whose objectness reaches `confidence`: no score is above it."""
    return decoded[decoded[:, 4] >= confidence]


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
    kept = np.ones(len(order), bool)
    # All pairs of a class at once instead of a loop over boxes. Whoever is to suppress others has
    # been through all its own pairs by then, as a pair's first box is the better one.
    for first, second in _pairs(classes[order], kept):
        sides = np.minimum(high[first], high[second]) - np.maximum(low[first], low[second]) + 1
        shared = np.maximum(sides, 0.0).prod(axis=1)
        clash = ~(shared <= overlap * (area[first] + area[second] - shared))
        for better, worse in zip(first[clash].tolist(), second[clash].tolist(), strict=True):
            if kept[better]:
                kept[worse] = False
    return order[kept]


def _pairs(classes: np.ndarray, kept: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places (i, j), i < j, of the same class in sorted `classes`, in order of i, part by part.

    Boxes that are no longer `kept` when a part begins are left out of it.
    """
    ends = np.searchsorted(classes, classes, side="right")
    partners = ends - np.arange(len(classes)) - 1
    parts = np.cumsum(partners) // _PAIRS_AT_ONCE
    for rows in np.split(np.arange(len(classes)), np.flatnonzero(np.diff(parts)) + 1):
        rows = rows[kept[rows]]
        counts = partners[rows]
        first = np.repeat(rows, counts)
        second = first + 1 + np.arange(len(first)) - np.repeat(counts.cumsum() - counts, counts)
        undecided = kept[second]
        yield first[undecided], second[undecided]
