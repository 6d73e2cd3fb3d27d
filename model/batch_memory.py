"""Memory of batches, lent again once nobody can see it any more.

A batch is some hundred megabytes. Taken afresh for every step, its pages cost a fifth of all
processor time of the pipeline: the kernel hands them out one by one and empties each. So the
memory of a batch goes to a later one, exactly when Python would have freed it: all arrays that are
lent are views of one owner, which lives as long as any view, or tensor made of one without a copy.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from model.architecture import Architecture
from model.targets import OBJECTNESS, Targets, target_shapes

Shape = tuple[int, ...]


MOST_FREE = 4
"""Blocks that are kept for later: what a few workers and the step under way have at one time."""


class BatchMemory:
    """Lends the arrays of batches; for several threads.

    Training at one size soon lives on the same blocks. With sizes in turn a block is used again
    only if its size comes back while it is among the last few that were given back.
    """

    def __init__(self, batch_size: int, architecture: Architecture, max_boxes: int) -> None:
        self._batch_size = batch_size
        self._architecture = architecture
        self._max_boxes = max_boxes
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def lend(self, side: int) -> tuple[np.ndarray, Targets]:
        """Return images (B, 3, side, side) float32 of any content, and targets of zeros."""
        truth_shapes, padded_shapes, image_shapes = self._shapes(side)
        sizes = [sum(map(math.prod, part)) for part in (truth_shapes, padded_shapes, image_shapes)]
        memory, used = self._take(sum(sizes) * np.dtype(np.float32).itemsize)
        owner = np.frombuffer(memory, np.float32)
        # No lock there: it may run wherever Python collects garbage. An append is atomic.
        weakref.finalize(owner, self._free.append, memory).atexit = False
        truths, padded, images = np.split(owner, np.cumsum(sizes[:2]))
        if used:
            cells = truths.reshape(-1, self._architecture.attributes)
            cells[cells[:, OBJECTNESS] != 0.0] = 0.0
            padded[:] = 0.0
        targets = Targets(*_cut(truths, truth_shapes), *_cut(padded, padded_shapes))
        return next(_cut(images, image_shapes)), targets

    def _take(self, size: int) -> tuple[mmap.mmap, bool]:
        with self._lock:
            del self._free[:-MOST_FREE]
            for index, memory in enumerate(self._free):
                if len(memory) == size:
                    return self._free.pop(index), True
        return mmap.mmap(-1, size), False

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
