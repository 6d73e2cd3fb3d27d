"""The values between evidence and action: finding, history, decision. No rules."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.states import FailureClass


@dataclass(frozen=True)
class Finding:
    """A class, and the name of the rule that gave it."""

    failure: FailureClass
    rule: str
    free: bool = False  # not charged to any budget


@dataclass(frozen=True)
class History:
    """What earlier failures of this job used up, and how this one compares with them."""

    charged: Mapping[FailureClass, int]
    attempts_without_gain: int = 0
    failures_in_a_row: int = 0
    repeats: int = 1
    """How often this very failure was seen at this step, this time included."""
    fallback_used: bool = False
    seed: str = ""
    """Run and attempt: what is drawn by it is the same on every replay."""


class Action(enum.Enum):
    """The rungs of the ladder."""

    RESTART = "restart"
    """In place: where the gang was, if that can be had."""
    ELSEWHERE = "elsewhere"
    """With the failed rank's device left alone."""
    SMALLER = "smaller"
    """With a divisor of the ranks as processes, since devices for all are lacking."""
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """What happens now: another attempt after `delay` seconds, or the end."""

    action: Action
    delay: float
    reason: str
    budget_left: int | None  # of the failure's class after this decision; None: unlimited
    row: str = ""  # of the policy table
    may_shrink: bool = False
    """Whether the next attempt may be a smaller world, should devices for all be lacking."""
    fallback: bool = False
    """Whether the next attempt gets the arguments of `restart.fallback`."""

    @property
    def retry(self) -> bool:
        """Whether there is another attempt."""
        return self.action is not Action.STOP
