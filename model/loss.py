"""The YOLOv3 loss (Redmon and Farhadi 2018, with cross entropy for offsets and objectness).

The cells of all heads are laid in one row, M of them, and each term is computed once for all:
a smaller graph, which compiles sooner. The layout is the network's, (B, 3, attribute, M): the
targets, which need no gradient, are transposed instead of the raw heads, which do. Lengths are
in cells of the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from model.architecture import ANCHORS_PER_HEAD, HEADS, STRIDES, Architecture

PARTS = ("xy", "wh", "objectness", "classes")
"""The four terms, in the order in which `LossTerms` returns them."""


class LossTerms(nn.Cell):
    """The four terms of the loss, each summed over heads, cells and anchors, a mean over images.

    Takes three tuples with one entry for each of `heads`: `raws` (B, 3 * (5 + C), g, g);
    `truths` (B, g, g, 3, 5 + C): x, y, w, h in parts of the input, 1 where an object is assigned,
    class targets; `boxes` (B, n, 4): the head's ground truth x, y, w, h in parts of the input,
    padded with zeros.
    """

    def __init__(self, architecture: Architecture, heads: Sequence[str] = HEADS) -> None:
        """Prepare the loss of `heads`, all three or some of them."""
        super().__init__()
        self.attributes = architecture.attributes
        self.anchors = tuple(
            tuple(
                (w / STRIDES[head], h / STRIDES[head]) for w, h in architecture.head_anchors(head)
            )
            for head in heads
        )
        self.cross_entropy = ops.SigmoidCrossEntropyWithLogits()
        self.background = Background(architecture.ignore_threshold)
        self.concat_cells = ops.Concat(axis=3)
        self.concat_rows = ops.Concat(axis=1)
        self.concat_parts = ops.Concat(axis=0)
        self.matmul = ops.MatMul()
        self.sum = ops.ReduceSum()

    def construct(
        self, raws: Sequence[Tensor], truths: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the four terms, scalars in the order of `PARTS`, and each head's share of them.

        The shares (4, heads) carry no gradient: they are for people to read.
        """
        grids = _grids(raws)
        corner, grid, anchor, member = _constants(grids, self.anchors)
        raw, truth = self._raw_row(raws), self._truth_row(truths)
        raw_xy, raw_wh = _attributes(raw, 0, 2), _attributes(raw, 2, 2)
        size, responsible = _attributes(truth, 2, 2), _attributes(truth, 4, 1)
        # Small objects need their boxes more exact.
        weight = responsible * (2.0 - _attributes(size, 0, 1) * _attributes(size, 1, 1))
        background = self.background(
            ops.sigmoid(raw_xy) + corner, ops.exp(raw_wh) * anchor, boxes, grids
        )
        offset = _attributes(truth, 0, 2) * grid - corner
        classes = self.attributes - 5
        raw_classes, true_classes = _attributes(raw, 5, classes), _attributes(truth, 5, classes)
        cells = (
            self.xy(raw_xy, offset, weight),
            self.wh(raw_wh, size * grid, anchor, weight),
            self.objectness(_attributes(raw, 4, 1), responsible, background),
            self.classes(raw_classes, true_classes, responsible),
        )
        terms, shares = (), ()
        for values in cells:
            terms += (self.sum(values) / raw.shape[0],)
            column = self.sum(ops.stop_gradient(values), (0, 1, 2)) / raw.shape[0]
            shares += (ops.reshape(column, (1, -1)),)
        return terms, self.matmul(self.concat_parts(shares), member)

    def xy(self, raw: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        """Cross entropy of the predicted against the true offset in the cell (0 to 1)."""
        return weight * self.cross_entropy(raw, offset)

    def wh(self, raw: Tensor, size: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
        """Half the squared difference of log sizes; `size` is 0 where there is no object."""
        size = size + ops.cast(size == 0.0, ms.float32)
        return weight * ops.square(raw - ops.log(size / anchor)) * 0.5

    def objectness(self, raw: Tensor, responsible: Tensor, background: Tensor) -> Tensor:
        """Cross entropy on responsible cells and on background."""
        counted = responsible + (1.0 - responsible) * background
        return counted * self.cross_entropy(raw, responsible)

    def classes(self, raw: Tensor, target: Tensor, responsible: Tensor) -> Tensor:
        """Cross entropy of every class on responsible cells."""
        return responsible * self.cross_entropy(raw, target)

    def _raw_row(self, raws: Sequence[Tensor]) -> Tensor:
        row = ()
        for raw in raws:
            images, _, grid, _ = raw.shape
            shape = (images, ANCHORS_PER_HEAD, self.attributes, grid * grid)
            row += (ops.reshape(ops.cast(raw, ms.float32), shape),)
        return self.concat_cells(row) if len(row) > 1 else row[0]

    def _truth_row(self, truths: Sequence[Tensor]) -> Tensor:
        row = ()
        for truth in truths:
            images, grid, _, anchors, attributes = truth.shape
            row += (ops.reshape(truth, (images, grid * grid, anchors, attributes)),)
        joined = self.concat_rows(row) if len(row) > 1 else row[0]
        return ops.transpose(joined, (0, 2, 3, 1))


class Background(nn.Cell):
    """Marks predicted boxes that overlap none of their head's ground truth by the threshold.

    An intersection over union below t is tested as `intersection - k * true area < k * own area`
    with k = t / (1 + t): on every pair of a cell and a box only few operations are left.
    """

    def __init__(self, threshold: float) -> None:
        """Mark boxes whose best overlap is below `threshold`."""
        super().__init__()
        self.share = threshold / (1.0 + threshold)
        self.concat_cells = ops.Concat(axis=3)
        self.minimum = ops.Minimum()
        self.maximum = ops.Maximum()
        self.best = ops.ReduceMax()

    def construct(
        self, centre: Tensor, size: Tensor, boxes: Sequence[Tensor], grids: Sequence[int]
    ) -> Tensor:
        """Return 1 or 0, (B, 3, 1, M), without gradient, for boxes (B, 3, 2, M) in cells."""
        centre, size = ops.stop_gradient(centre), ops.stop_gradient(size)
        low, high = centre - 0.5 * size, centre + 0.5 * size
        row = ()
        first = 0
        for i, grid in enumerate(grids):
            box = ops.stop_gradient(boxes[i]) * grid
            excess = self._excess(low, high, first, grid * grid, box)
            row += (ops.reshape(excess, (low.shape[0], ANCHORS_PER_HEAD, 1, grid * grid)),)
            first += grid * grid
        area = _attributes(size, 0, 1) * _attributes(size, 1, 1)
        best = self.concat_cells(row) if len(row) > 1 else row[0]
        return ops.cast(best < self.share * area, ms.float32)

    def _excess(self, low: Tensor, high: Tensor, first: int, cells: int, box: Tensor) -> Tensor:
        """Greatest `intersection - k * true area` of every predicted box of a head."""
        w, h = _coordinate(box, 2), _coordinate(box, 3)
        across = self._overlap(low, high, first, cells, 0, _coordinate(box, 0), w)
        down = self._overlap(low, high, first, cells, 1, _coordinate(box, 1), h)
        # One of the two must not be negative, or two gaps would multiply to an overlap.
        return self.best(ops.relu(across) * down - self.share * (w * h), 1)

    def _overlap(
        self,
        low: Tensor,
        high: Tensor,
        first: int,
        cells: int,
        axis: int,
        middle: Tensor,
        length: Tensor,
    ) -> Tensor:
        """Length shared along an axis by each predicted and each true box (B, n, 3 * cells)."""
        images = low.shape[0]
        begin, count = (0, 0, axis, first), (images, ANCHORS_PER_HEAD, 1, cells)
        low = ops.reshape(ops.slice(low, begin, count), (images, 1, -1))
        high = ops.reshape(ops.slice(high, begin, count), (images, 1, -1))
        end = self.minimum(high, middle + 0.5 * length)
        return end - self.maximum(low, middle - 0.5 * length)


class DetectionLoss(nn.Cell):
    """Sum of the four terms over the three heads; arguments as in `LossTerms`, order l, m, s."""

    def __init__(self, architecture: Architecture) -> None:
        """Prepare the loss of all heads."""
        super().__init__()
        self.terms = LossTerms(architecture)

    def construct(
        self,
        raw_l: Tensor,
        raw_m: Tensor,
        raw_s: Tensor,
        y_true_l: Tensor,
        y_true_m: Tensor,
        y_true_s: Tensor,
        gt_l: Tensor,
        gt_m: Tensor,
        gt_s: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the scalar loss, and the shares (4, 3) of its parts and heads in it."""
        terms, shares = self.terms(
            (raw_l, raw_m, raw_s), (y_true_l, y_true_m, y_true_s), (gt_l, gt_m, gt_s)
        )
        xy, wh, objectness, classes = terms
        return xy + wh + objectness + classes, shares


def _grids(raws: Sequence[Tensor]) -> tuple[int, ...]:
    grids = ()
    for raw in raws:
        grids += (raw.shape[2],)
    return grids


def _attributes(x: Tensor, first: int, count: int) -> Tensor:
    """Attributes `first` to `first + count` of (B, 3, attribute, M)."""
    images, anchors, _, cells = x.shape
    return ops.slice(x, (0, 0, first, 0), (images, anchors, count, cells))


def _coordinate(boxes: Tensor, index: int) -> Tensor:
    """One coordinate (B, n, 1) of boxes (B, n, 4)."""
    images, count, _ = boxes.shape
    return ops.slice(boxes, (0, 0, index), (images, count, 1))


@constexpr
def _constants(grids: tuple[int, ...], anchors: tuple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what depends on the shapes alone, for M cells of H heads.

    That is the corner (1, 1, 2, M) and the grid (1, 1, 1, M) of every cell, the anchors
    (1, 3, 2, M), and (M, H), which is 1 where a cell belongs to a head.

    Computed once, when the graph is compiled.
    """
    corner, grid, anchor = [], [], []
    member = np.eye(len(grids), dtype=np.float32).repeat([side**2 for side in grids], axis=0)
    for side, pairs in zip(grids, anchors, strict=True):
        rows, columns = np.mgrid[:side, :side].astype(np.float32)
        corner.append(np.stack([columns, rows]).reshape(1, 1, 2, -1))
        grid.append(np.full((1, 1, 1, side * side), side, np.float32))
        sizes = np.array(pairs, np.float32).reshape(1, ANCHORS_PER_HEAD, 2, 1)
        anchor.append(sizes.repeat(side * side, axis=3))
    rows = tuple(Tensor(np.concatenate(parts, axis=3)) for parts in (corner, grid, anchor))
    return (*rows, Tensor(member))
