"""The peer of `decode_nms`: how the ModelZoo trainer's evaluation turns heads into detections.

Re-created from what it does, in the same order of public NumPy calls: per image and head the four
columns of the boxes are scaled, `argmax` finds the best class, a loop over all boxes marks it in a
table of booleans that `random` has made, the score is what that table selects times objectness;
a second loop over all boxes drops those below the threshold and appends the others to a list per
image and class. Then, per list, non-maximum suppression in NumPy, and a dictionary per box kept.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

Found = dict[int, dict[int, list[list[float]]]]


class Engine:
    """Collects boxes batch by batch; `finish` suppresses them and returns the rows of all."""

    def __init__(self, category_ids: Sequence[int], confidence: float, overlap: float) -> None:
        self._category_ids = category_ids
        self._confidence = confidence
        self._overlap = overlap
        self._found: Found = {}

    def detect(self, heads: Sequence[Any], sizes: Any, image_ids: Any) -> None:
        """Take the decoded heads (B, g, g, 3, 5 + C) of a batch, finest first."""
        for place in range(len(image_ids)):
            for head in heads:
                self._detect_one(head[place, :], sizes[place], int(image_ids[place]))

    def _detect_one(self, head: Any, size: Any, image_id: int) -> None:
        width, height = size
        x, y = head[..., 0] * width, head[..., 1] * height
        w, h = (head[..., 2] * width).reshape(-1), (head[..., 3] * height).reshape(-1)
        objectness, classes = head[..., 4:5].reshape(-1), head[..., 5:]
        best = np.expand_dims(np.argmax(classes, axis=-1), axis=-1).reshape(-1)
        classes = classes.reshape(-1, len(self._category_ids))
        left, top = x.reshape(-1) - w / 2.0, y.reshape(-1) - h / 2.0
        marked = np.random.random(classes.shape) > sys.maxsize
        for row in range(marked.shape[0]):
            marked[row, best[row]] = True
        scores = classes[marked] * objectness
        for x_i, y_i, w_i, h_i, score, number in zip(left, top, w, h, scores, best, strict=True):
            if score < self._confidence:
                continue
            of_image = self._found.setdefault(image_id, defaultdict(list))
            of_image[self._category_ids[number]].append(
                [max(0, x_i), max(0, y_i), min(w_i, width), min(h_i, height), score]
            )

    def finish(self) -> list[dict[str, Any]]:
        """What the result file would hold."""
        rows = []
        for image_id, of_image in self._found.items():
            for category, boxes in of_image.items():
                table = np.array(boxes)
                rows += [
                    {
                        "image_id": image_id,
                        "category_id": int(category),
                        "bbox": list(table[kept][:4].astype(float)),
                        "score": table[kept][4].astype(float),
                    }
                    for kept in suppress(table, self._overlap)
                ]
        return rows


def suppress(boxes: Any, overlap: float) -> list[int]:
    """Places of the boxes (n, 5: x, y, w, h, score) that are kept."""
    left, top = boxes[:, 0], boxes[:, 1]
    right, bottom = left + boxes[:, 2], top + boxes[:, 3]
    areas = (right - left + 1) * (bottom - top + 1)
    order = boxes[:, 4].argsort()[::-1]
    kept = []
    while order.size > 0:
        best, rest = order[0], order[1:]
        kept.append(best)
        wide = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest]) + 1
        high = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest]) + 1
        shared = np.maximum(0.0, wide) * np.maximum(0.0, high)
        ratio = shared / (areas[best] + areas[rest] - shared)
        order = order[np.where(ratio <= overlap)[0] + 1]
    return kept
