"""Memory of batches, lent again once nobody can see it any more.

A batch is some hundred megabytes. Taken afresh for every step, its pages cost a fifth of all
processor time of the pipeline: the kernel hands them out one by one and empties each. So the
memory of a batch goes to a later one, exactly when Python would have freed it: all arrays that are
lent are views of one owner, which lives as long as any view, or tensor made of one without a copy.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from model.architecture import Architecture
from model.targets import OBJECTNESS, Targets, target_shapes

Shape = tuple[int, ...]


class BatchMemory:
    """Lends the arrays of batches whose side is at most ``largest_side``; for several threads.

    It keeps as much as was lent at one time.
    """

    def __init__(
        self, batch_size: int, largest_side: int, architecture: Architecture, max_boxes: int
    ) -> None:
        self._batch_size = batch_size
        self._architecture = architecture
        self._max_boxes = max_boxes
        truths, padded, images = (sum(map(math.prod, part)) for part in self._shapes(largest_side))
        # Where the three kinds begin is the same for all sides, so that what was
        # occupied in a batch of one side is found again for a batch of another.
        self._ends = (truths, truths + padded, truths + padded + images)
        self._free: list[mmap.mmap] = []

    def lend(self, side: int) -> tuple[np.ndarray, Targets]:
        """Return images (B, 3, side, side) float32 of any content, and targets of zeros."""
        memory, used = self._take()
        owner = np.frombuffer(memory, np.float32)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        truths, padded, images = np.split(owner, self._ends[:2])
        if used:
            cells = truths.reshape(-1, self._architecture.attributes)
            cells[cells[:, OBJECTNESS] != 0.0] = 0.0
            padded[:] = 0.0
        truth_shapes, padded_shapes, [image_shape] = self._shapes(side)
        targets = Targets(*_cut(truths, truth_shapes), *_cut(padded, padded_shapes))
        return next(_cut(images, [image_shape])), targets

    def _take(self) -> tuple[mmap.mmap, bool]:
        try:
            return self._free.pop(), True
        except IndexError:
            return mmap.mmap(-1, self._ends[-1] * np.dtype(np.float32).itemsize), False

    def _shapes(self, side: int) -> tuple[list[Shape], list[Shape], list[Shape]]:
        """Shapes of assigned cells, of padded boxes, and of the images."""
        truths, padded = target_shapes(side, self._architecture, self._max_boxes)
        kinds = (truths, padded, [(3, side, side)])
        return tuple([(self._batch_size, *shape) for shape in kind] for kind in kinds)  # type: ignore[return-value]


def _cut(memory: np.ndarray, shapes: Sequence[Shape]) -> Iterator[np.ndarray]:
    """Lay arrays of these shapes one after the other into the memory."""
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        yield memory[start:stop].reshape(shape)
        start = stop
