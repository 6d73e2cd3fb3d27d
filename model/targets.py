"""Assignment of ground-truth boxes to cells and anchors (Redmon and Farhadi 2018). Plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES, Architecture, check_side

MAX_BOXES = 50
"""Boxes kept per image, and rows of the padded ground truth of every head."""

OBJECTNESS = 4
"""Of a cell's attributes the one that is not zero where there is an object."""

FIRST_ANCHOR = {"s": 0, "m": 3, "l": 6}
_STRIDES = np.array([STRIDES[head] for head in HEADS])
_HEAD_OF_ANCHOR = np.repeat(np.argsort([FIRST_ANCHOR[head] for head in HEADS]), ANCHORS_PER_HEAD)


@dataclass(frozen=True)
class Targets:
    """What one image (or, stacked, a batch) asks of the three heads; everything is float32.

    `y_true_*` is (g, g, 3, 5 + C), rows before columns: centre x, y and size w, h in parts of the
    input, 1 where an object is assigned, class targets. `gt_*` is (max_boxes, 4): the boxes that
    `y_true_*` holds, in the order of cells, padded with zeros.
    """

    y_true_l: np.ndarray
    y_true_m: np.ndarray
    y_true_s: np.ndarray
    gt_l: np.ndarray
    gt_m: np.ndarray
    gt_s: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All six in the order in which the training network takes them."""
        return (self.y_true_l, self.y_true_m, self.y_true_s, self.gt_l, self.gt_m, self.gt_s)

    def by_head(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """What the cells of each of HEADS are, and its padded boxes."""
        arrays = self.arrays()
        return arrays[: len(HEADS)], arrays[len(HEADS) :]


def make_targets(
    boxes: np.ndarray,
    side: int,
    architecture: Architecture,
    *,
    max_boxes: int = MAX_BOXES,
    label_smooth: float = 0.0,
    out: Targets | None = None,
) -> Targets:
    """Assign boxes (n, 5: x1, y1, x2, y2 in pixels of a square input of `side`, class).

    Rows without width or height are padding and are passed over wherever they stand. Each box goes
    to the one anchor of nine whose shape overlaps it most. A later box takes the cell and anchor of
    an earlier one: its position is lost, while classes are kept beside the new one's unless they
    are smoothed. `label_smooth` is the share taken from the true class and spread over the others.
    They are written into `out`, which is all zeros, if that is given.
    """
    targets = empty_targets(side, architecture, max_boxes) if out is None else out
    boxes = np.asarray(boxes, np.float32).reshape(-1, 5)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if len(boxes) > max_boxes:
        raise ValueError(f"{len(boxes)} boxes in an image: at most max_boxes = {max_boxes}")
    pixels = boxes[:, 2:4] - boxes[:, 0:2]
    # Centres are floored to whole pixels, as in the original.
    centre = np.floor((boxes[:, 0:2] + boxes[:, 2:4]) / 2)
    centre_size = (np.concatenate([centre, pixels], axis=1) / np.float64(side)).astype(np.float32)
    classes = _class_indices(boxes[:, 4], architecture.num_classes)
    anchors = best_anchors(pixels, np.array(architecture.anchors, np.float64))
    places = _places(centre_size[:, :2], anchors, side)
    held, cells = _cells(places, centre_size, classes, architecture.attributes, label_smooth)
    for head, truth, padded in zip(range(len(HEADS)), *targets.by_head(), strict=True):
        own = held[0] == head
        truth[tuple(held[1:, own])] = cells[own]
        padded[: np.count_nonzero(own)] = cells[own, :4]
    return targets


def target_shapes(
    side: int, architecture: Architecture, max_boxes: int = MAX_BOXES
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes of one image's `y_true_*` and `gt_*`; ValueError for a side 32 does not divide."""
    check_side(side)
    cell = (ANCHORS_PER_HEAD, architecture.attributes)
    grids = [side // STRIDES[head] for head in HEADS]
    return [(grid, grid, *cell) for grid in grids], [(max_boxes, 4)] * len(HEADS)


def empty_targets(side: int, architecture: Architecture, max_boxes: int = MAX_BOXES) -> Targets:
    """Targets of an image without an object."""
    truths, padded = target_shapes(side, architecture, max_boxes)
    return Targets(*(np.zeros(shape, np.float32) for shape in (*truths, *padded)))


def stack(targets: list[Targets]) -> Targets:
    """Stack the targets of images of one size to those of a batch."""
    return Targets(
        *(np.stack(arrays) for arrays in zip(*(t.arrays() for t in targets), strict=True))
    )


def best_anchors(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Index of the anchor (of k, 2) that overlaps each of `sizes` (n, 2) most, both centred."""
    shared = np.minimum(sizes[:, None], anchors).prod(axis=2)
    union = sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - shared
    return np.argmax(shared / union, axis=1)


def _class_indices(values: np.ndarray, num_classes: int) -> np.ndarray:
    classes = values.astype(np.int64)
    if len(classes) and (classes.min() < 0 or classes.max() >= num_classes):
        bad = classes[(classes < 0) | (classes >= num_classes)][0]
        raise ValueError(f"class {bad} of a box: num_classes is {num_classes}")
    return classes


def _places(centre: np.ndarray, anchors: np.ndarray, side: int) -> np.ndarray:
    """Where boxes with these centres (n, 2) and anchors of nine go: head, row, column, anchor.

    In float64, as the original: a centre on the border of cells may round either way. One on or
    over the edge of the image belongs to the nearest cell. Returns (4, n).
    """
    heads = _HEAD_OF_ANCHOR[anchors]
    grids = side // _STRIDES[heads]
    cells = np.floor(centre * grids[:, None].astype(np.float64)).astype(np.int64)
    columns, rows = np.clip(cells.T, 0, grids - 1)
    return np.stack([heads, rows, columns, anchors % ANCHORS_PER_HEAD])


def _cells(
    places: np.ndarray,
    centre_size: np.ndarray,
    classes: np.ndarray,
    attributes: int,
    label_smooth: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The places that are occupied (4, k), in order, and what they hold (k, attributes)."""
    limits = (len(HEADS), *places.max(axis=1, initial=0)[1:3] + 1, ANCHORS_PER_HEAD)
    flat = np.ravel_multi_index(tuple(places), limits)
    held, last = np.unique(flat[::-1], return_index=True)
    last = len(flat) - 1 - last
    cells = np.zeros((len(held), attributes), np.float32)
    cells[:, :4], cells[:, OBJECTNESS] = centre_size[last], 1.0
    if label_smooth and attributes > 6:
        cells[:, 5:] = label_smooth / (attributes - 6)
        cells[np.arange(len(held)), 5 + classes[last]] = 1.0 - label_smooth
    else:
        cells[np.searchsorted(held, flat), 5 + classes] = 1.0
    return places[:, last], cells
