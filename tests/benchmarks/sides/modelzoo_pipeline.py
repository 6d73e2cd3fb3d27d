"""The peer of `input_pipeline`: the calls of the ModelZoo trainer's data pipeline, in their order.

A `GeneratorDataset` over an object that reads a file as bytes and asks pycocotools for the boxes
of its image; `vision.Decode` as a map; `batch` with a `per_batch_map` in Python on as many workers
as there are cores. For each image of a batch that function shuffles the boxes, draws ten places
and picks one of them until a box stays in the input, resizes with Pillow by a method drawn at
random, pastes on grey, flips, recolours through OpenCV's HSV in float64, normalises in float64,
and makes the targets with a loop over boxes and heads. Here in own words, simplified nowhere that
costs time; one difference: rows are arrays, as MindSpore 2.10 refuses lists with NumPy 2.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import vision
from PIL import Image
from pycocotools.coco import COCO  # type: ignore[import-untyped]

from model.architecture import FULL
from tests.benchmarks.sides.modelzoo_targets import targets

COLUMNS = ["image", "annotation", "bbox1", "bbox2", "bbox3", "gt_box1", "gt_box2", "gt_box3"]
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
JITTER, HUE, SATURATION, VALUE, MAX_BOXES, TRIALS = 0.3, 0.1, 1.5, 1.5, 50, 10
METHODS = [Image.Resampling(number) for number in (0, 2, 3, 0, 1)]


class Source:
    """Bytes and boxes of an image by its place in the data set."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "train2017"
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(directory / "annotations" / "instances_train2017.json"))
        self.ids = sorted(self.coco.imgs)
        self.classes = {category: i for i, category in enumerate(self.coco.getCatIds())}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        [row] = self.coco.loadImgs(self.ids[index])
        content = np.fromfile(self.root / row["file_name"], dtype="int8")
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=self.ids[index]))
        boxes = []
        for annotation in annotations:
            if annotation["iscrowd"] == 0:
                x, y, w, h = annotation["bbox"]
                boxes.append([x, y, x + w, y + h, self.classes[annotation["category_id"]]])
        return content.view(np.uint8), np.array(boxes), *[np.zeros(1)] * 6


class WholeBatch:
    """What `batch` calls, with as many arguments as there are columns and one more."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(
        self, images: Any, boxes: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, info: Any
    ) -> tuple[Any, ...]:
        return whole_batch(images, boxes, self.side)


def batches(source: Source, side: int, batch: int, workers: int) -> Iterator[tuple[Any, ...]]:
    """One epoch in random order; images, then targets and boxes of the heads l, m, s."""
    order = np.random.permutation(len(source)).tolist()
    pipeline = ds.GeneratorDataset(source, column_names=COLUMNS, sampler=order)
    pipeline = pipeline.map(operations=vision.Decode(), input_columns=["image"])
    pipeline = pipeline.batch(
        batch,
        per_batch_map=WholeBatch(side),
        input_columns=COLUMNS,
        num_parallel_workers=workers,
        drop_remainder=True,
    )
    for row in pipeline.create_tuple_iterator(output_numpy=True, num_epochs=1):
        yield row[0], *row[2:]


def whole_batch(images: list[Any], annotations: list[Any], side: int) -> tuple[Any, ...]:
    """Augment every image of a batch and make its targets."""
    samples = []
    for image, boxes in zip(images, annotations, strict=True):
        pixels, kept = augmented(Image.fromarray(image), boxes.copy(), side)
        heads = targets(kept, FULL.anchors, side, FULL.num_classes, MAX_BOXES)
        samples.append((pixels.transpose(2, 0, 1).copy(), np.array(0), *heads))
    return tuple(np.array(column) for column in zip(*samples, strict=True))


def augmented(image: Image.Image, boxes: Any, side: int) -> tuple[Any, Any]:
    """Pixels (side, side, 3) float32 and boxes (MAX_BOXES, 5), padded."""
    np.random.shuffle(boxes)
    boxes = boxes[:MAX_BOXES]
    flip = np.random.rand() < 0.5
    kept, (dx, dy, width, height) = placed(boxes, image.size, side, flip)
    resized = image.resize((width, height), METHODS[random.randint(0, 4)])
    canvas = Image.new("RGB", (side, side), (128, 128, 128))
    canvas.paste(resized, (dx, dy))
    if flip:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    recoloured = distorted(np.array(canvas))
    return ((recoloured / 255.0 - MEAN) / DEVIATION).astype(np.float32), kept


def placed(boxes: Any, size: tuple[int, int], side: int, flip: bool) -> tuple[Any, Any]:
    """Ten places, one after the other at random until one keeps a box; else the whole input."""
    places = [_place(side) for _ in range(TRIALS)]
    for place in places:
        # The original judges each place by its overlap with the input, and takes them all.
        _overlap(_moved(boxes, size, place), np.array([[0, 0, side, side]]))
    while True:
        last = not places
        place = (0, 0, side, side) if last else places.pop(np.random.randint(len(places)))
        moved = _moved(boxes, size, place)
        if flip:
            moved[:, [0, 2]] = side - moved[:, [2, 0]]
        moved[:, 0:2][moved[:, 0:2] < 0] = 0
        moved[:, 2][moved[:, 2] > side] = side
        moved[:, 3][moved[:, 3] > side] = side
        extent = moved[:, 2:4] - moved[:, 0:2]
        moved = moved[np.logical_and(extent[:, 0] > 1, extent[:, 1] > 1)]
        if len(moved) or last:
            padded = np.zeros((MAX_BOXES, 5))
            padded[: len(moved)] = moved
            return padded, place


def _place(side: int) -> tuple[int, int, int, int]:
    aspect = _between(1 - JITTER, 1 + JITTER) / _between(1 - JITTER, 1 + JITTER)
    longer = int(_between(0.25, 2) * side)
    width, height = (int(longer * aspect), longer) if aspect < 1 else (longer, int(longer / aspect))
    return int(_between(0, side - width)), int(_between(0, side - height)), width, height


def _moved(boxes: Any, size: tuple[int, int], place: tuple[int, int, int, int]) -> Any:
    dx, dy, width, height = place
    moved = copy.deepcopy(boxes)
    moved[:, [0, 2]] = moved[:, [0, 2]] * float(width) / float(size[0]) + dx
    moved[:, [1, 3]] = moved[:, [1, 3]] * float(height) / float(size[1]) + dy
    return moved


def _overlap(boxes: Any, other: Any) -> Any:
    low = np.maximum(boxes[:, None, :2], other[:, :2])
    high = np.minimum(boxes[:, None, 2:4], other[:, 2:4])
    shared = np.prod(high - low, axis=2) * (low < high).all(axis=2)
    one, two = (np.prod(b[:, 2:4] - b[:, :2], axis=1) for b in (boxes, other))
    return shared / (one[:, None] + two - shared)


def distorted(image: Any) -> Any:
    """Recolour (side, side, 3) uint8."""
    hue = _between(-HUE, HUE)
    saturation, value = _factor(SATURATION), _factor(VALUE)
    x = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL) / 255.0
    x[..., 0] += hue
    x[..., 0][x[..., 0] > 1] -= 1
    x[..., 0][x[..., 0] < 0] += 1
    x[..., 1] *= saturation
    x[..., 2] *= value
    x[x > 1] = 1
    x[x < 0] = 0
    return cv2.cvtColor((x * 255.0).astype(np.uint8), cv2.COLOR_HSV2RGB_FULL)


def _between(low: float, high: float) -> float:
    return float(np.random.rand() * (high - low) + low)


def _factor(limit: float) -> float:
    return _between(1, limit) if np.random.rand() < 0.5 else 1 / _between(1, limit)
