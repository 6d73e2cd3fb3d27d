"""Training batches as a pure function of the global step.

What a rank trains on in a step depends on (seed, rank, world size, step) and the data set alone,
never on the number of workers, the order of access, the process or an earlier run: a resumed run
continues with exactly the batches it would have had.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from model.architecture import Architecture, check_side
from model.batch_memory import BatchMemory
from model.coco import CocoDataset, CocoImage, DataError
from model.image_file import Flaw, load_image, read_image
from model.journal import LOGGER
from model.sampling import (
    multi_scale_side,
    require_global_batch,
    step_positions,
    steps_per_epoch,
)
from model.substitutes import TRIES, Replacement, ReplacementLog, candidates
from model.targets import Targets, make_targets
from model.transforms import (
    Augmentation,
    AugmentationSettings,
    augmented,
    draw_augmentation,
    sample_generator,
)

DEFAULT_CACHE_BYTES = 256 << 20
__all__ = ["BATCH_ARRAYS", "Batch", "ImageCache", "TrainingData", "read_image"]

BATCH_ARRAYS = ("images", "y_true_l", "y_true_m", "y_true_s", "gt_l", "gt_m", "gt_s")


class ImageCache:
    """Decoded images by path, the least recently used leaving first; safe for several threads."""

    def __init__(self, limit_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Hold at most ``limit_bytes`` of pixels; 0 keeps nothing."""
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._images: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image: CocoImage) -> np.ndarray | Flaw:
        """Return the pixels of ``image``, (height, width, 3) uint8 RGB, read only, or its flaw."""
        with self._lock:
            if image.path in self._images:
                self._images.move_to_end(image.path)
                return self._images[image.path]
        pixels = load_image(image)
        if isinstance(pixels, Flaw):
            return pixels
        pixels.flags.writeable = False
        with self._lock:
            if image.path not in self._images and pixels.nbytes <= self.limit_bytes:
                self._images[image.path] = pixels
                self.held_bytes += pixels.nbytes
                while self.held_bytes > self.limit_bytes:
                    self.held_bytes -= self._images.popitem(last=False)[1].nbytes
        return pixels


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's share of one step; B samples, G cells a side per head, C classes.

    ``images`` (B, 3, side, side) float32, normalised RGB; ``y_true_*`` (B, G, G, 3, 5 + C) and
    ``gt_*`` (B, max_boxes, 4) float32 as :mod:`model.targets` says; ``image_ids`` (B,) int64 are
    those that the order of the epoch asks for; which of them were unusable, and what was trained
    instead, ``replaced`` says. The arrays of :attr:`inputs` are read only, and their memory is used
    again once nothing refers to it.
    """

    images: np.ndarray
    y_true_l: np.ndarray
    y_true_m: np.ndarray
    y_true_s: np.ndarray
    gt_l: np.ndarray
    gt_m: np.ndarray
    gt_s: np.ndarray
    image_ids: np.ndarray
    side: int
    global_step: int
    replaced: tuple[Replacement, ...] = ()

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The arrays in the order in which the training network takes them."""
        return tuple(getattr(self, name) for name in BATCH_ARRAYS)


class TrainingData:
    """The batches of one rank."""

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        batch_size: int,
        side_or_sides: int | Sequence[int],
        architecture: Architecture,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        resize_rate: int = 1,
        label_smooth: float = 0.0,
        augmentation: AugmentationSettings | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        """Check that the parts fit each other.

        ``side_or_sides`` is the side of the square input in pixels, or the sides of multi-scale
        training, ``resize_rate`` batches in a row sharing one. ``label_smooth`` is the factor of
        the smoothing, 0 for none. A ``cache`` may be shared by several ranks of one process.
        Raises ValueError for settings that cannot be, DataError (65) for a data set smaller than
        one global batch or with other classes than the network.
        """
        self.sides = _as_tuple(side_or_sides)
        _check_settings(batch_size, resize_rate, rank, world_size, self.sides)
        where = f"{dataset.annotation_file} ({dataset.split})"
        require_global_batch(len(dataset), batch_size, world_size, where)
        if len(dataset.categories) != architecture.num_classes:
            raise DataError(where, [
                f"{len(dataset.categories)} categories, but the network has "
                f"{architecture.num_classes} classes; derive the classes from the data"
            ])  # fmt: skip
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.resize_rate = resize_rate
        self.architecture = architecture
        self.label_smooth = label_smooth
        self.augmentation = augmentation or AugmentationSettings()
        self.cache = cache or ImageCache()
        self.replacements = ReplacementLog()
        self._memory = BatchMemory(batch_size, architecture, self.augmentation.max_boxes)
        self.steps_per_epoch = steps_per_epoch(len(dataset), batch_size, world_size)
        # The workers are as many as the rank has CPUs: threads of OpenCV would multiply by them.
        cv2.setNumThreads(0)
        if rank == 0:
            LOGGER.info(dataset.account())

    def epoch_of(self, global_step: int) -> int:
        """Return the epoch, from 0, that ``global_step``, from 0, belongs to."""
        return global_step // self.steps_per_epoch

    def side_of(self, global_step: int) -> int:
        """Return the side in pixels of the network's input in ``global_step``."""
        if len(self.sides) == 1:
            return self.sides[0]
        epoch, step = divmod(global_step, self.steps_per_epoch)
        return multi_scale_side(
            epoch, step, len(self.dataset), self.sides, self.resize_rate, self.seed
        )

    def sample_ids(self, global_step: int) -> tuple[int, ...]:
        """Return the ids of the images that this rank sees in ``global_step``."""
        return tuple(self.dataset.images[position].id for position in self._positions(global_step))

    def batch(self, global_step: int) -> Batch:
        """Make the batch of ``global_step``; always the same one.

        An image that is gone, is no image or not of its annotated size is replaced
        (:mod:`model.substitutes`). Raises DataError if no replacement can be used either, OSError
        of a failing storage.
        """
        side, epoch = self.side_of(global_step), self.epoch_of(global_step)
        positions = self._positions(global_step)
        replaced: list[Replacement] = []
        images, targets = self._memory.lend(side)
        # What is small is done for all samples at once: between images, which drive all else from
        # the processor's caches, it takes twice as long, and other workers wait for Python.
        drawn = [self._draw(position, position, epoch, side) for position in positions]
        for place, position in enumerate(positions):
            used, pixels = self._usable(position, epoch, replaced)
            if used != position:
                drawn[place] = self._draw(used, position, epoch, side)
            augmented(pixels, drawn[place], side, images[place])
        self._assign([sample.boxes for sample in drawn], side, targets)
        for replacement in replaced:
            self.replacements.note(replacement, epoch)
        for array in (images, *targets.arrays()):
            array.flags.writeable = False
        ids = [self.dataset.images[position].id for position in positions]
        return Batch(
            images=images,
            **vars(targets),
            image_ids=np.array(ids, dtype=np.int64),
            side=side,
            global_step=global_step,
            replaced=tuple(replaced),
        )

    def iterate(self, start_step: int, stop_step: int, workers: int = 1) -> Generator[Batch]:
        """Yield the batches from ``start_step`` up to, not with, ``stop_step``, in order.

        ``workers`` threads work ahead by at most one batch each and one more (0: no thread). They
        begin with the first batch asked for, have the CPU set of the thread that asks, and cannot
        outlive the process, nor the iterator: when it ends, fails or is closed, they have ended.
        An error is raised where its batch would have come.
        """
        return prefetch(self.batch, range(start_step, stop_step), workers)

    def _positions(self, global_step: int) -> list[int]:
        return step_positions(
            len(self.dataset), self.batch_size, self.world_size, self.rank, global_step, self.seed
        ).tolist()

    def _draw(self, position: int, asked: int, epoch: int, side: int) -> Augmentation:
        """Draw for the image at ``position``, which takes the place of the one ``asked`` for."""
        image = self.dataset.images[position]
        return draw_augmentation(
            sample_generator(self.seed, epoch, self.dataset.images[asked].id),
            self.dataset.boxes(position), (image.width, image.height), side, self.augmentation,
        )  # fmt: skip

    def _assign(self, boxes: list[np.ndarray], side: int, targets: Targets) -> None:
        """Make the targets of all samples in their places of a batch of zeros."""
        for place, sample in enumerate(boxes):
            make_targets(
                sample, side, self.architecture,
                max_boxes=self.augmentation.max_boxes, label_smooth=self.label_smooth,
                out=Targets(*(array[place] for array in targets.arrays())),
            )  # fmt: skip

    def _usable(
        self, position: int, epoch: int, replaced: list[Replacement]
    ) -> tuple[int, np.ndarray]:
        """Return ``position`` with its pixels, or those of its substitute, and note that."""
        images = self.dataset.images
        wanted, loaded = images[position], self.cache.get(images[position])
        if not isinstance(loaded, Flaw):
            return position, loaded
        flaw = loaded
        for other in candidates(len(images), self.seed, epoch, wanted.id):
            loaded = self.cache.get(images[other])
            if not isinstance(loaded, Flaw):
                replaced.append(Replacement(wanted.id, images[other].id, flaw.message))
                return other, loaded
        raise DataError(str(self.dataset.annotation_file), [
            f"{flaw.message}; of {TRIES} others drawn in its place none can be used either: "
            "see `python -m model.data check`"
        ])  # fmt: skip


def _as_tuple(side_or_sides: int | Sequence[int]) -> tuple[int, ...]:
    return (side_or_sides,) if isinstance(side_or_sides, int) else tuple(side_or_sides)


def _check_settings(
    batch_size: int, resize_rate: int, rank: int, world_size: int, sides: tuple[int, ...]
) -> None:
    if batch_size < 1 or resize_rate < 1:
        raise ValueError(
            f"per_batch_size {batch_size} and resize_rate {resize_rate} must be at least 1"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not among the {world_size} ranks 0...{world_size - 1}")
    if not sides:
        raise ValueError("no input side given: set training_shape or multi_scale")
    for side in sides:
        check_side(side)


def prefetch(make: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch]:
    """Yield ``make(step)`` in order, with workers as :meth:`TrainingData.iterate` has them."""
    return _ahead(make, steps, workers) if workers > 0 else (make(step) for step in steps)


def _ahead(make: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch]:
    """Yield ``make(step)`` in order while worker threads are ahead by ``workers + 1`` steps."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="training-data")
    pending: deque[Future[Batch]] = deque()
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


if __name__ == "__main__":
    from model.data_report import main

    sys.exit(main())
