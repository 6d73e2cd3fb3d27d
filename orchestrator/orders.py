"""What a person asks of a job, and why it may be refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.states import JobState


class OrderKind(enum.Enum):
    """What is to become of a job. The last four are muster's own: nobody asks for them by name."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    RESUME = "resume"
    REQUEUE = "requeue"  # give the devices back, and go on later
    OVERRUN = "overrun"  # limits.run is over
    PREEMPT = "preempt"  # the machine is wanted back: save, leave, and let somebody resume
    DETACH = "detach"  # let go of a run and leave it as it is


@dataclass(frozen=True)
class Order:
    """An order to the controller of a running job. `reason` is a sentence for the job's record."""

    kind: OrderKind
    reason: str
    preempts: bool = False  # for a job of higher priority: charged to the class preemption


@dataclass(frozen=True)
class Halt:
    """How a running job is halted, and what is recorded at the end.

    `saves`: seconds that ranks have to write a checkpoint and leave by themselves; 0: none.
    """

    event: str
    state: JobState
    saves: float


HALTS: dict[OrderKind, Halt] = {
    OrderKind.CANCEL: Halt("cancelled", JobState.CANCELLED, 0.0),
    OrderKind.HOLD: Halt("held", JobState.HELD, 120.0),
    OrderKind.REQUEUE: Halt("requeued", JobState.QUEUED, 120.0),
    OrderKind.PREEMPT: Halt("preempted", JobState.CANCELLED, 120.0),
    OrderKind.OVERRUN: Halt("overrun", JobState.FAILED, 120.0),
}
"""A run that is to go on later has time to save itself; a cancelled one need not."""


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
