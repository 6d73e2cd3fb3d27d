"""Anchors for a data set: k-means on the sizes of its boxes (Redmon and Farhadi, YOLO9000, 2017).

The distance of two sizes is 1 - IoU of boxes with one centre. A centre moves to the median width
and height of its boxes, not to the mean: IoU falls with the ratio of two lengths, so its middle is
one of ratios, which a few huge boxes do not pull. (Average IoU on sizes with a long tail: 0.654
against 0.650; on even ones the mean is better by 0.0015.) Neither has to rise in each round: the
best centres seen are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.architecture import ANCHORS_PER_HEAD, HEADS

if TYPE_CHECKING:
    from model.coco import CocoDataset

RESTARTS = 10
GRAIN = 1024
"""Sizes are told apart to this part of a pixel: less would drown in rounding."""

_SAMPLE = 40_000
_ROUNDS, _PATIENCE = 300, 5
_BLOCK = 1 << 16


@dataclass(frozen=True)
class HeadShare:
    """The boxes whose best anchor belongs to a head: how many, and their average best IoU."""

    head: str
    boxes: int
    mean_iou: float


def box_sizes(dataset: CocoDataset, side: int) -> np.ndarray:
    """Sizes (n, 2) in pixels of the boxes as training sees them in a square of `side` pixels.

    Each image is stretched to the square, not padded. Boxes are cut off at their image; what is
    not larger than a pixel both ways is left out.
    """
    extents = np.array([(image.width, image.height) for image in dataset.images], np.float64)
    extents = np.repeat(extents.reshape(-1, 2), np.diff(dataset.box_starts), axis=0)
    corners = dataset.box_table
    shown = np.clip(corners[:, 2:4], 0, extents) - np.clip(corners[:, 0:2], 0, extents)
    sizes = shown * side / extents
    return sizes[(sizes > 1).all(axis=1)]


def find_anchors(
    sizes: np.ndarray,
    count: int,
    seed: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Find `count` anchors (count, 2) for `sizes` (n, 2) of at least a pixel, smallest area first.

    The same for the same sizes in any order, and for the same `seed`. `progress` is called with
    (starts tried, of how many). Raises ValueError for fewer different sizes than anchors.
    """
    sizes = np.round(np.asarray(sizes, np.float64).reshape(-1, 2) * GRAIN) / GRAIN
    sizes = sizes[np.lexsort(sizes.T)]
    different = count_different(sizes)
    if different < count:
        raise ValueError(f"{different} different box sizes are fewer than {count} anchors")
    rng = np.random.default_rng(seed)
    sample = sizes
    if len(sizes) > _SAMPLE:
        sample = sizes[np.sort(rng.choice(len(sizes), _SAMPLE, replace=False))]
        sample = sample if count_different(sample) >= count else sizes
    best, best_iou = sizes[:count], -1.0
    for start in range(RESTARTS):
        progress(start, RESTARTS + 1)
        found, iou = refine(sample, spread(sample, count, rng))
        if iou > best_iou:
            best, best_iou = found, iou
    progress(RESTARTS, RESTARTS + 1)
    return by_area(best if sample is sizes else refine(sizes, best)[0])


def count_different(sizes: np.ndarray) -> int:
    """How many different rows there are in sorted `sizes` (n, 2)."""
    return int((np.diff(sizes, axis=0) != 0).any(axis=1).sum()) + min(len(sizes), 1)


def by_area(anchors: np.ndarray) -> np.ndarray:
    """Sort (k, 2) by area, of equals the narrower first."""
    return anchors[np.lexsort((anchors[:, 0], anchors.prod(axis=1)))]


def best_overlaps(sizes: np.ndarray, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `sizes` (n, 2) the index of the best of `anchors` (k, 2), and their IoU."""
    best = np.empty(len(sizes), np.int64)
    iou = np.empty(len(sizes))
    areas = anchors.prod(axis=1)
    for first in range(0, len(sizes), _BLOCK):  # a block stays in the cache
        part = slice(first, first + _BLOCK)
        width, height = sizes[part, 0, None], sizes[part, 1, None]
        shared = np.minimum(width, anchors[:, 0]) * np.minimum(height, anchors[:, 1])
        overlap = shared / (width * height + areas - shared)
        best[part] = overlap.argmax(axis=1)
        iou[part] = overlap.max(axis=1)
    return best, iou


def mean_iou(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """The average IoU of `sizes` (n, 2) with the best of `anchors` (k, 2) for each."""
    return float(best_overlaps(sizes, np.asarray(anchors, np.float64))[1].mean())


def spread(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` different ones of `sizes`, each with a chance as its distance from the others.

    (Arthur and Vassilvitskii, k-means++, 2007.) There must be so many different ones.
    """
    centres = sizes[rng.integers(len(sizes))][None]
    distance = 1 - best_overlaps(sizes, centres)[1]
    while len(centres) < count:
        apart = np.flatnonzero(distance > 0)
        chances = np.cumsum(distance[apart])
        drawn = np.searchsorted(chances, rng.random() * chances[-1], side="right")
        centre = sizes[apart[min(drawn, len(apart) - 1)]][None]
        centres = np.concatenate([centres, centre])
        distance = np.minimum(distance, 1 - best_overlaps(sizes, centre)[1])
    return centres


def refine(sizes: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Move `centres` (k, 2) until their average IoU with `sizes` rises no more: (centres, IoU)."""
    best, best_iou, fruitless = centres, -1.0, 0
    for _ in range(_ROUNDS):
        nearest, iou = best_overlaps(sizes, centres)
        mean = float(iou.mean())
        best, best_iou, fruitless = (
            (centres, mean, 0) if mean > best_iou else (best, best_iou, fruitless + 1)
        )
        if fruitless == _PATIENCE:
            break
        moved = _moved(sizes, centres, nearest, iou)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return best, best_iou


def _moved(
    sizes: np.ndarray, centres: np.ndarray, nearest: np.ndarray, iou: np.ndarray
) -> np.ndarray:
    """Each centre in the median of its boxes; one without any where the worst fitting box is.

    Of two middles the lower: between them lies what fits neither.
    """
    lonely = iter(np.argsort(iou, kind="stable"))
    members = [sizes[nearest == number] for number in range(len(centres))]
    return np.array([
        _median(own) if len(own) else sizes[next(lonely)] for own in members
    ])  # fmt: skip


def _median(sizes: np.ndarray) -> np.ndarray:
    middle = (len(sizes) - 1) // 2
    return np.partition(sizes, middle, axis=0)[middle]


def whole_anchors(anchors: np.ndarray) -> np.ndarray:
    """Round (k, 2) to whole pixels, at least one, as --anchor_scales takes them; by area."""
    return by_area(np.maximum(np.rint(anchors), 1).astype(np.int64))


def head_shares(sizes: np.ndarray, anchors: np.ndarray) -> list[HeadShare]:
    """How the boxes are shared among the heads by nine `anchors` (9, 2), coarsest head first."""
    best, iou = best_overlaps(sizes, np.asarray(anchors, np.float64))
    shares = []
    for place, head in enumerate(reversed(HEADS)):
        own = iou[best // ANCHORS_PER_HEAD == place]
        shares.append(HeadShare(head, len(own), float(own.mean()) if len(own) else 0.0))
    return shares[::-1]
