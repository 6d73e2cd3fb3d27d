"""Synthetic decoded heads of a trained network: mostly background, and some objects.

As the heads of a trained detector look at 416 x 416: nearly all boxes have an objectness far below
one thousandth; each image has a few objects (seven on average, as in COCO), and an object lights
up boxes of several anchors and cells around it that overlap. That leaves a few hundred boxes an
image above the evaluation's threshold.
"""

from __future__ import annotations

import numpy as np

from model.architecture import ANCHORS_PER_HEAD, FULL

SIDE = 416
STRIDES = (8, 16, 32)
CLASSES = FULL.num_classes
BACKGROUND, SPREAD = -10.5, 2.0
"""Mean and deviation of the logit of a background box's objectness."""
OBJECTS = 7
ECHOES = 12
"""Boxes that one object lights up in each head, on average."""


def synthetic_heads(images: int, seed: int) -> list[np.ndarray]:
    """Heads (images, g, g, 3, 85) float32, finest first."""
    rng = np.random.default_rng(seed)
    heads = [_background(images, SIDE // stride, rng) for stride in STRIDES]
    for image in range(images):
        for _ in range(rng.poisson(OBJECTS)):
            _add_object([head[image] for head in heads], rng)
    return heads


def synthetic_sizes(images: int, seed: int) -> np.ndarray:
    """Widths and heights (images, 2) int32 of the original images, as COCO's."""
    rng = np.random.default_rng([seed, 1])
    return rng.integers(300, 641, (images, 2)).astype(np.int32)


def _background(images: int, grid: int, rng: np.random.Generator) -> np.ndarray:
    shape = (images, grid, grid, ANCHORS_PER_HEAD)
    head = np.empty((*shape, 5 + CLASSES), np.float32)
    head[..., 0:2] = rng.random((*shape, 2))
    head[..., 2:4] = rng.lognormal(-2.0, 0.8, (*shape, 2))
    head[..., 4] = _sigmoid(rng.normal(BACKGROUND, SPREAD, shape))
    head[..., 5:] = _sigmoid(rng.standard_normal((*shape, CLASSES), np.float32) - 5)
    likely = rng.integers(0, CLASSES, (*shape, 1))
    np.put_along_axis(head[..., 5:], likely, rng.random((*shape, 1), np.float32), axis=-1)
    return head


def _add_object(heads: list[np.ndarray], rng: np.random.Generator) -> None:
    """Light up boxes around one object in every head of an image."""
    centre, size, number = rng.random(2), rng.lognormal(-1.8, 0.7, 2), rng.integers(CLASSES)
    for head in heads:
        grid = len(head)
        for _ in range(rng.poisson(ECHOES)):
            column, row = np.clip(centre * grid + rng.normal(0, 0.7, 2), 0, grid - 1).astype(int)
            box = head[row, column, rng.integers(ANCHORS_PER_HEAD)]
            box[0:2] = centre + rng.normal(0, 0.05, 2) * size
            box[2:4] = size * rng.lognormal(0, 0.15, 2)
            box[4] = _sigmoid(rng.normal(-1.0, 3.0))
            box[5 + number] = rng.uniform(0.6, 1.0)


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)
