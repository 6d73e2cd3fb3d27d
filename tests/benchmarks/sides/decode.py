"""Both sides of `decode_nms`: `decode ROUNDS IMAGES_A_ROUND DISTINCT BATCH`.

Prints milliseconds an image of both sides for every round, how many detections there were and the
largest difference between the two (infinite if their number differs).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from model.decode import CONFIDENCE, OVERLAP, detections
from tests.benchmarks.bench import in_turn
from tests.benchmarks.sides import peak_gigabytes, report
from tests.benchmarks.sides.heads import CLASSES, synthetic_heads, synthetic_sizes
from tests.benchmarks.sides.modelzoo_decode import Engine

CATEGORIES = tuple(range(1, CLASSES + 1))


class Images:
    """Heads of few distinct images that stand for many; every image has an id of its own."""

    def __init__(self, distinct: int, batch: int, seed: int = 1) -> None:
        self.heads = synthetic_heads(distinct, seed)
        self.sizes = synthetic_sizes(distinct, seed)
        self.distinct, self.batch = distinct, batch

    def batches(self, first: int, count: int) -> list[tuple[list[np.ndarray], np.ndarray]]:
        """Heads (views, nothing is copied) and image ids of `count` images from `first` on."""
        found = []
        for start in range(first, first + count, self.batch):
            at = start % self.distinct
            heads = [head[at : at + self.batch] for head in self.heads]
            found.append((heads, np.arange(start, start + len(heads[0]))))
        return found

    def sizes_of(self, ids: np.ndarray) -> np.ndarray:
        """Original sizes of these images."""
        found: np.ndarray = self.sizes[ids % self.distinct]
        return found


def ours(images: Images, first: int, count: int) -> np.ndarray:
    """Detections of ours, as rows."""
    parts = [
        detections(heads, ids.tolist(), images.sizes_of(ids), CATEGORIES)  # type: ignore[arg-type]
        for heads, ids in images.batches(first, count)
    ]
    return np.concatenate(parts)


def peer(images: Images, first: int, count: int) -> np.ndarray:
    """Detections of the peer, as rows."""
    engine = Engine(CATEGORIES, CONFIDENCE, OVERLAP)
    for heads, ids in images.batches(first, count):
        engine.detect(heads, images.sizes_of(ids), ids)
    rows = engine.finish()
    return np.array([[r["image_id"], r["category_id"], *r["bbox"], r["score"]] for r in rows])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference of two sets of rows in whatever order, in parts of the largest value."""
    if one.shape != other.shape:
        return float("inf")
    one, other = (r[np.lexsort((r[:, 2], -r[:, 6], r[:, 1], r[:, 0]))] for r in (one, other))
    return float((np.abs(one - other) / np.maximum(np.abs(other), 1.0)).max())


def measure(rounds: int, count: int, distinct: int, batch: int) -> dict[str, object]:
    """Both sides in turn, each round over images of other ids."""
    images = Images(distinct, batch)

    def timed(
        side: Callable[[Images, int, int], np.ndarray],
    ) -> Callable[[int], tuple[float, np.ndarray]]:
        def once(number: int) -> tuple[float, np.ndarray]:
            since = time.perf_counter()
            rows = side(images, number * count, count)
            return 1000 * (time.perf_counter() - since) / count, rows

        return once

    ours(images, 0, batch)
    peer(images, 0, batch)
    mine, theirs = in_turn(rounds, timed(ours), timed(peer))
    worst = max(difference(a[1], b[1]) for a, b in zip(mine, theirs, strict=True))
    return {
        "ours": [taken for taken, _ in mine],
        "peer": [taken for taken, _ in theirs],
        "detections": sum(len(rows) for _, rows in mine),
        "difference": worst if np.isfinite(worst) else None,
        "memory": peak_gigabytes(),
    }


if __name__ == "__main__":
    report(measure(*map(int, sys.argv[1:])))
