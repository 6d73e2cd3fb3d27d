"""The batches of several virtual ranks in one process: those that each would have alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.data import Batch, TrainingData, prefetch
from model.substitutes import Replacement


@dataclass(frozen=True, eq=False)
class Batches:
    """One step of a process: a batch for each of its virtual ranks, in their order."""

    each: tuple[Batch, ...]

    @property
    def inputs(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """What `model.virtual_step.VirtualStep.train` takes."""
        return tuple(batch.inputs for batch in self.each)

    @property
    def side(self) -> int:
        """The side of the images in pixels, the same for all ranks."""
        return self.each[0].side

    @property
    def global_step(self) -> int:
        """The step, from 0."""
        return self.each[0].global_step

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """All images that were replaced."""
        return tuple(one for batch in self.each for one in batch.replaced)


class VirtualData:
    """The data of virtual ranks behind one another, with the face of `TrainingData`."""

    def __init__(self, shares: Sequence[TrainingData]) -> None:
        """Join the ranks' shares, in their order; they account for replaced images together."""
        self.shares = tuple(shares)
        for share in self.shares[1:]:
            share.replacements = self.shares[0].replacements

    def __getattr__(self, name: str) -> Any:
        """What is the same for all ranks is told by the first."""
        if name == "shares":
            raise AttributeError(name)
        return getattr(self.shares[0], name)

    def sample_ids(self, global_step: int) -> tuple[int, ...]:
        """Return the ids of the images that this process sees in ``global_step``."""
        return tuple(one for share in self.shares for one in share.sample_ids(global_step))

    def iterate(self, start_step: int, stop_step: int, workers: int = 1) -> Generator[Batches]:
        """Yield the batches of all ranks from ``start_step`` up to, not with, ``stop_step``.

        As `TrainingData.iterate`: each batch counts as one for the workers, of whichever rank.
        """
        count = len(self.shares)
        turns = range(start_step * count, stop_step * count)
        with closing(prefetch(self._of_turn, turns, workers)) as batches:
            for _ in range(start_step, stop_step):
                yield Batches(tuple(next(batches) for _ in range(count)))

    def _of_turn(self, turn: int) -> Batch:
        step, place = divmod(turn, len(self.shares))
        return self.shares[place].batch(step)
