"""What is trained in place of an image that cannot be used, and the account of it.

A run must not end at hour nine over one file, and must stay exactly resumable. So the place of an
unusable image is taken by another one that is a pure function of (seed, epoch, image id) and of
the files on disk: the same on every rank, with any number of workers, after every resume. It goes
through the augmentation that the lost image would have had, so it is no copy of its own turn in
the epoch. A grey negative in its place would be simpler, but would teach that such scenes are
empty and pull at the batch statistics.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from model.journal import LOGGER
from model.transforms import sample_generator

TRIES = 256
"""Images tried for one place; even with nine of ten unusable they fail together once in 5e11."""

TOLD_IN_FULL = 20
COUNTED_EVERY = 1000
_STREAM = 1


@dataclass(frozen=True)
class Replacement:
    """One sample of one batch: the image left out, the one trained instead, the reason."""

    image_id: int
    substitute_id: int
    reason: str


def candidates(images: int, seed: int, epoch: int, image_id: int) -> Iterator[int]:
    """Yield up to TRIES positions among ``images`` that may take the place of ``image_id``."""
    rng = sample_generator(seed, epoch, image_id, _STREAM)
    return (int(rng.integers(images)) for _ in range(TRIES))


class ReplacementLog:
    """Counts replacements and tells of them in the log, in bounded length; for several threads.

    The counts are this process's own; what is exact from attempt to attempt stands in the batches.
    """

    def __init__(self) -> None:
        """Begin with nothing replaced."""
        self.samples = 0
        self._images: set[int] = set()
        self._lock = threading.Lock()

    @property
    def images(self) -> int:
        """How many different images were left out so far."""
        return len(self._images)

    def account(self) -> str:
        """Say in a few words how many there were."""
        return f"{self.samples} samples replaced, of {self.images} images that cannot be used"

    def note(self, replacement: Replacement, epoch: int) -> None:
        """Count one; the first images are told in full, and the sum once in a while."""
        with self._lock:
            self.samples += 1
            new = replacement.image_id not in self._images
            self._images.add(replacement.image_id)
            samples, images = self.samples, self.images
        if new and images <= TOLD_IN_FULL:
            LOGGER.warning(
                "image %d left out of epoch %d, image %d trained in its place: %s",
                replacement.image_id, epoch, replacement.substitute_id, replacement.reason,
            )  # fmt: skip
        if (new and images == TOLD_IN_FULL) or samples % COUNTED_EVERY == 0:
            LOGGER.warning(
                "%d samples replaced so far, of %d images that cannot be used; "
                "`python -m model.data check` names all", samples, images,
            )  # fmt: skip
