"""Assignment of ground-truth boxes to cells and anchors (Redmon and Farhadi 2018). Plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES, Architecture, check_side

MAX_BOXES = 50
"""Boxes kept per image, and rows of the padded ground truth of every head."""

FIRST_ANCHOR = {"s": 0, "m": 3, "l": 6}


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


def make_targets(
    boxes: np.ndarray,
    side: int,
    architecture: Architecture,
    *,
    max_boxes: int = MAX_BOXES,
    label_smooth: float = 0.0,
) -> Targets:
    """Assign boxes (n, 5: x1, y1, x2, y2 in pixels of a square input of `side`, class).

    Rows without width or height are padding and are passed over wherever they stand. Each box goes
    to the one anchor of nine whose shape overlaps it most. A later box takes the cell and anchor of
    an earlier one: its position is lost, while classes are kept beside the new one's unless they
    are smoothed. `label_smooth` is the share taken from the true class and spread over the others.
    """
    check_side(side)
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
    truths = [
        _head_truth(head, side, architecture, centre_size, classes, anchors, label_smooth)
        for head in HEADS
    ]
    return Targets(*truths, *(_padded_boxes(truth, max_boxes) for truth in truths))


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


def _head_truth(
    head: str,
    side: int,
    architecture: Architecture,
    centre_size: np.ndarray,
    classes: np.ndarray,
    anchors: np.ndarray,
    label_smooth: float,
) -> np.ndarray:
    grid = side // STRIDES[head]
    truth = np.zeros((grid, grid, ANCHORS_PER_HEAD, architecture.attributes), np.float32)
    first = FIRST_ANCHOR[head]
    for i in np.flatnonzero((anchors >= first) & (anchors < first + ANCHORS_PER_HEAD)):
        # In float64, as the original: a centre on the border of cells may round either way.
        # One on or over the edge of the image belongs to the nearest cell.
        cell_xy = np.floor(centre_size[i, :2] * np.float64(grid)).astype(np.int64)
        column, row = np.clip(cell_xy, 0, grid - 1)
        cell = truth[row, column, anchors[i] - first]
        cell[:4] = centre_size[i]
        cell[4] = 1.0
        _add_class(cell[5:], classes[i], label_smooth)
    return truth


def _add_class(classes: np.ndarray, index: int, label_smooth: float) -> None:
    if label_smooth and len(classes) > 1:
        classes[:] = label_smooth / (len(classes) - 1)
        classes[index] = 1.0 - label_smooth
    else:
        classes[index] = 1.0


def _padded_boxes(truth: np.ndarray, max_boxes: int) -> np.ndarray:
    boxes = truth[truth[..., 4] == 1.0][:, :4]
    padded = np.zeros((max_boxes, 4), np.float32)
    padded[: len(boxes)] = boxes
    return padded
