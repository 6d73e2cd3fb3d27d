"""What a person asks of a job, and why it may be refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.states import JobState


class OrderKind(enum.Enum):
    """What is to become of a job. The last two are muster's own, never asked for by a person."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    RESUME = "resume"
    REQUEUE = "requeue"
    DETACH = "detach"


@dataclass(frozen=True)
class Order:
    """An order and who gave it. `reason` is a sentence for the job's record."""

    kind: OrderKind
    reason: str


class Refused(RuntimeError):
    """What was asked for cannot be; the message says why, and what can be done instead."""


class NotTaken(RuntimeError):
    """No job is taken in now; the message says why."""


ALLOWED: dict[OrderKind, frozenset[JobState]] = {
    OrderKind.CANCEL: frozenset(state for state in JobState if not state.terminal),
    OrderKind.HOLD: frozenset(
        state for state in JobState if not state.terminal and state is not JobState.HELD
    ),
    OrderKind.RELEASE: frozenset({JobState.HELD}),
    OrderKind.RESUME: frozenset({JobState.FAILED, JobState.CANCELLED}),
}
"""In which states a person may give an order. A held job that was running resumes when released."""


def check(kind: OrderKind, state: JobState, job: str) -> None:
    """Raises Refused when a job in this state cannot take the order."""
    allowed = ALLOWED[kind]
    if state in allowed:
        return
    if len(allowed) <= 3:
        can = " or ".join(sorted(one.value for one in allowed))
        raise Refused(f"{job} is {state.value}: only a job that is {can} can be {_DONE[kind]}")
    if state.terminal:
        raise Refused(f"{job} is {state.value}: it has ended and cannot be {_DONE[kind]}")
    raise Refused(f"{job} is {state.value} already")


_DONE = {
    OrderKind.CANCEL: "cancelled",
    OrderKind.HOLD: "held",
    OrderKind.RELEASE: "released",
    OrderKind.RESUME: "resumed",
}
