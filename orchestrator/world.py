"""How many devices a job runs on: all that it asks for, or a divisor of that. Pure.

A job of N ranks that may shrink (`restart.min_ranks`) goes on with n devices where n divides N:
each of n processes then computes N / n virtual ranks one after another (`MUSTER_RANKS`), so that
the batch, the samples and the learning rate stay what they were. Only who reads MUSTER_RANKS can
do that: our trainer does, of any other program `min_ranks` is the user's promise.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 20.0
"""Seconds that a job waits for all its devices before it goes on with fewer: about what it costs to
come back to full size later. A device that is being reset, or freed by a dying process, is there
again within them."""

SETTLED = 60.0
"""Seconds of training in a smaller world before it is left: the restart must be worth it."""

SETTLED_AT_MOST = 3600.0

LOOK_EVERY = 15.0
"""Seconds between looks for devices that are back: a look starts the devices' tools."""


@dataclass(frozen=True)
class World:
    """`size` processes, each on a device of its own, compute the `ranks` of a job."""

    ranks: int
    size: int

    @property
    def virtual(self) -> int:
        """How many ranks each process computes."""
        return self.ranks // self.size

    @property
    def whole(self) -> bool:
        """Whether every rank has a device of its own."""
        return self.size == self.ranks

    def __str__(self) -> str:
        if self.whole:
            return f"{self.ranks} ranks on devices of their own"
        return f"{self.size} of {self.ranks} ranks' devices ({self.virtual} virtual ranks each)"


def sizes(ranks: int, least: int) -> tuple[int, ...]:
    """The sizes that a job of `ranks` may have, the largest first; none below `least`.

    Which of them a node's fabric allows is the allocator's to say.
    """
    return tuple(n for n in range(ranks, max(1, least) - 1, -1) if ranks % n == 0)


def settled_after(growths: int) -> float:
    """Seconds of training in a smaller world before full size is tried again.

    Doubled by every time that it was tried: a device that comes and goes must not cost a restart
    each time.
    """
    return float(min(SETTLED_AT_MOST, SETTLED * 2.0 ** min(growths, 16)))
