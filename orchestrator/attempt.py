"""The attempt under way, in the controller's hands."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.checkpoints import Verified
from orchestrator.gang import Gang
from orchestrator.states import FailureClass


class Unstartable(Exception):
    """An attempt that cannot begin, and what kind of failure that is."""

    def __init__(self, failure: FailureClass, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


@dataclass
class UnderWay:
    """An attempt: its gang, what it was told to resume from, and what is known to have happened."""

    gang: Gang
    chosen: Verified | None
    allocated_at: float
    running: bool = False
    recovered: bool = False
    proven: bool = False
    checkpoint_step: int = -1
    seen_at: float | None = None
    """When its failure was seen, before anybody looked closer."""

    @property
    def resumed_step(self) -> int:
        """The step whose state it started from; 0 for a fresh start."""
        return self.chosen.step if self.chosen else 0


@dataclass
class OpenFault:
    """A failure that no new step has made up for yet. `at` is CLOCK_MONOTONIC."""

    at: float
    steps_before: int
