"""Back to full size: a job in a smaller world looks now and then whether its devices are back.

If so, and if the queue gives them where there is one, the gang saves itself, leaves at a step
boundary, and the next attempt is begun with all devices. That is no failure: nothing is charged.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from cluster.allocate import Placement, Refusal
from orchestrator import world
from orchestrator.attempt import UnderWay
from orchestrator.devices import Devices
from orchestrator.ending import TERM_GRACE, Ending
from orchestrator.keeper import CheckpointKeeper
from orchestrator.recorder import Recorder
from orchestrator.states import JobState

SAVES = 120.0
"""Seconds that the ranks have to write a checkpoint and leave, as for an order to hold."""


class Grows(Exception):
    """All devices are there again: the attempt under way is to make room for a larger one."""


@dataclass
class Growth:
    """Watches for one run."""

    devices: Devices
    recorder: Recorder
    ending: Ending
    keeper: CheckpointKeeper
    _next_look: float = field(default=0.0, init=False)
    _looking: bool = field(default=False, init=False)
    _asked: Future[Placement | Refusal] | None = field(default=None, init=False)
    _attempt: int = field(default=0, init=False)
    _told: str = field(default="", init=False)

    def watch(self, way: UnderWay) -> None:
        """Raise Grows once all devices can be had; returns at once. Called now and then."""
        small = self.recorder.ledger.world
        if small is None or small.whole:
            return
        self._forget_earlier_attempts()
        if not self._due(way) or not (self._asked or self._are_there(way)):
            return
        if self._asked is not None:
            if not self._asked.done():
                return
            answer, self._asked = self._asked.result(), None
            if isinstance(answer, Refusal):
                return self._stay(small, answer)
        raise Grows(f"devices for all {small.ranks} ranks can be had again")

    def _forget_earlier_attempts(self) -> None:
        if self._attempt != self.recorder.ledger.attempt:
            self._attempt = self.recorder.ledger.attempt
            self._looking, self._asked, self._told = False, None, ""

    def _are_there(self, way: UnderWay) -> bool:
        """Whether a look that is over has seen devices for all; then the queue is being asked."""
        found = self.devices.glance()
        self._looking = found is None
        if found is None:
            return False
        self._next_look = time.monotonic() + world.LOOK_EVERY
        if not self.devices.could_have_all(found, way.gang.plan.placement):
            return False
        self._asked = self.devices.ask_queue()
        return True

    def _stay(self, small: world.World, answer: Refusal) -> None:
        """Say why, once."""
        if answer.reason != self._told:
            self._told = answer.reason
            self.recorder.record("waiting", f"stays on {small}: {answer.reason}")

    def _due(self, way: UnderWay) -> bool:
        """Whether it is time to look, and the ranks can be asked to save themselves."""
        if self._looking or self._asked is not None:
            return True
        first = way.gang.first_step_at
        if first is None or not all(view.beat and view.beat.stops for view in way.gang.views):
            return False  # who cannot be asked would lose steps: it grows when it next restarts
        settled = first + world.settled_after(self.recorder.ledger.growths)
        return time.monotonic() >= max(settled, self._next_look)

    def begin(self, way: UnderWay, reason: str) -> None:
        """Record why the attempt under way is ended, and end it."""
        self.recorder.record("growing", reason, state=JobState.STOPPING)
        self.end(way)

    def end(self, way: UnderWay) -> None:
        """Let the gang save itself and leave; what an earlier controller has begun too."""
        self.ending.let_save(way, SAVES)
        self.ending.stop(way, grace=TERM_GRACE)
        self.ending.record(way)
        self.keeper.settle()
        self.recorder.record("next", "its ranks have left", state=JobState.RECOVERING)

    def begun(self) -> bool:
        """Whether an earlier controller was ending an attempt for this."""
        ledger = self.recorder.ledger
        return ledger.state is JobState.STOPPING and ledger.growing == ledger.attempt > 0
