"""Snapshots of a simulated gang: real slots and seals, each rank at its own moment.

Follows `model.snapshots`: after a step every rank opens its slot, copies, seals, and goes on; the
digests come later. So a kill finds slots that one rank has opened and another has sealed already.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.snapshot_slots import Slots
from tests.simulation.clock import Clock

if TYPE_CHECKING:
    from tests.simulation.ranks import Gang


def shots_of(gang: Gang, clock: Clock, dice: random.Random, watch: Any) -> Shots | None:
    """What the environment of a gang's ranks asks for."""
    environment = gang.ranks[0].plan.environment
    told = json.loads(environment["MUSTER_CHECKPOINT"])
    if not told.get("snapshots") or not told.get("snapshot_every_steps"):
        return None
    resumed = environment["MUSTER_RESUME_FROM"]
    slots = {
        rank: Slots(
            Path(told["snapshots"]), told["snapshot_every_steps"], rank, gang.size,
            int(environment["MUSTER_ATTEMPT"]), Path(resumed) if resumed else None,
        )
        for rank in gang.ranks
    }  # fmt: skip
    watch.shoots(told["snapshot_every_steps"])
    return Shots(gang, clock, dice, watch, slots)


class Shots:
    """See the module."""

    def __init__(
        self, gang: Gang, clock: Clock, dice: random.Random, watch: Any, slots: dict[int, Slots]
    ) -> None:
        self._gang = gang
        self._clock = clock
        self._dice = dice
        self._watch = watch
        self._slots = slots
        self._gone: set[int] = set()
        """Ranks that have given up."""
        self._without_digest: set[int] = set()
        self._to_seal: set[int] = set()

    def due(self, step: int) -> bool:
        """Whether one is to be taken after this step."""
        return self._slots[0].due(step)

    def ready(self, step: int) -> bool:
        """Whether that step may begin: digests of the last snapshot are awaited before the next."""
        return not (self.due(step) and self._without_digest)

    def take(self, step: int, then: Callable[[], None]) -> None:
        """Take the snapshot of a step; `then` once every rank is through with it."""
        self._to_seal = set(self._slots)
        left = set(self._slots)

        def through(rank: int) -> None:
            left.discard(rank)
            if not left:
                then()

        for rank, slots in self._slots.items():
            slot = slots.next()
            delay = self._dice.choice([0.0, 0.01, 0.2])
            self._gang.when_able(rank, delay, self._opens(rank, slot, step, through))

    def _opens(
        self, rank: int, slot: Path, step: int, through: Callable[[int], None]
    ) -> Callable[[], None]:
        def opens() -> None:
            if rank in self._gone:
                return through(rank)
            self._gang.phase("snapshot", rank=rank)
            self._watch.slot_opened(slot)
            try:
                self._slots[rank].open(slot)
            except OSError:  # tmpfs was emptied: it goes on without
                self._give_up(rank)
                self._gang.phase("train", rank=rank)
                return through(rank)
            lasts = self._dice.choice([0.0, 0.05, 0.5])
            self._gang.when_able(rank, lasts, lambda: copies(rank))

        def copies(rank: int) -> None:
            name, data = _file(rank, step)
            try:
                (slot / name).write_bytes(data)
                self._slots[rank].seal(slot, step, {name: None})
            except OSError:
                self._give_up(rank)
            else:
                self._sealed(rank, slot, step)
            self._gang.phase("train", rank=rank)
            through(rank)

        return opens

    def _sealed(self, rank: int, slot: Path, step: int) -> None:
        self._to_seal.discard(rank)
        if not self._to_seal:
            self._watch.slot_sealed(slot, step)
        self._without_digest.add(rank)
        delay = self._dice.choice([0.0, 0.1, 1.5])
        self._gang.when_able(rank, delay, lambda: self._digests(rank, slot, step))

    def _digests(self, rank: int, slot: Path, step: int) -> None:
        self._without_digest.discard(rank)
        name, data = _file(rank, step)
        try:
            self._slots[rank].seal(slot, step, {name: hashlib.sha256(data).hexdigest()})
        except OSError:
            return  # the first seal stands

    def _give_up(self, rank: int) -> None:
        self._gone.add(rank)
        self._watch.shoots(None)


def _file(rank: int, step: int) -> tuple[str, bytes]:
    return (f"rank-{rank}.ckpt" if rank else "model.ckpt"), step.to_bytes(8, "little") * (8 + rank)
