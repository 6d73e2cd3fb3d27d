"""What the policy promises of a fault: one table by kind, and the job's own numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.health import hang_limit
from orchestrator.ledger import Ledger
from orchestrator.spec import JobSpec
from orchestrator.states import FailureClass

EXIT_SEEN = 0.2
"""Seconds within which the end of a process is seen."""

_LOOKS = 1.0


@dataclass(frozen=True)
class Moment:
    """What was so when a fault was injected; kept in the journal with it.

    `step` is the newest of the gang, `checkpoint` that of the newest intact checkpoint (0: none);
    `stops`: the rank, or all where none is named, could be asked to save itself; `slowest` the
    longest step seen (s); `touched` the checkpoint that the fault damages.
    """

    phase: str = ""
    step: int = 0
    checkpoint: int = 0
    stops: bool = False
    slowest: float = 0.0
    touched: str | None = None
    submitted: bool = False
    left: bool = False
    """Whether the rank had done its work already."""


@dataclass(frozen=True)
class Promise:
    """What must follow. None promises nothing: it cannot be known beforehand.

    `failure` None with `may_fail` False: nothing fails. `seen_within` in seconds after the fault,
    `lost_at_most` in steps, `resumes_from` the step that the next attempt starts from at least.
    """

    failure: FailureClass | None = None
    may_fail: bool = False
    free: bool = False
    rank: int | None = None
    goes_on: bool | None = None
    seen_within: float | None = None
    lost_at_most: int | None = None
    resumes_from: int | None = None
    another_controller: bool = False
    same_attempt: bool = False
    """Whether the gang that runs is not to be stopped."""
    unused: str | None = None
    """A checkpoint that nothing may resume from any more."""

    def text(self) -> str:
        """In a line, for a person."""
        parts = [_what(self)]
        if self.another_controller:
            parts.append("another controller goes on")
        elif self.failure is not None and self.goes_on is not None:
            parts.append("goes on" if self.goes_on else "ends")
        if self.seen_within is not None:
            parts.append(f"seen within {self.seen_within:g} s")
        if self.lost_at_most is not None and self.goes_on is not False:
            parts.append(f"at most {self.lost_at_most} steps lost")
        if self.unused is not None:
            parts.append("never resumed from")
        return ", ".join(parts)

    def to_document(self) -> dict[str, Any]:
        """For the journal."""
        failure = self.failure.value if self.failure else None
        return {**asdict(self), "failure": failure, "text": self.text()}


def _what(promise: Promise) -> str:
    if promise.failure is None:
        return "no failure"
    free = ", free of charge" if promise.free else ""
    perhaps = "at most " if promise.may_fail else ""
    return f"{perhaps}class {promise.failure.value}{free}"


@dataclass(frozen=True)
class Row:
    """A kind of fault: its class, how it is seen, whose fault it is."""

    failure: FailureClass | None
    by_exit: bool = False
    blames: bool = False
    free: bool = False
    may_fail: bool = False


TABLE: Mapping[str, Row] = {
    "kill-rank": Row(FailureClass.PROCESS, by_exit=True, blames=True),
    "term-rank": Row(FailureClass.PREEMPTION, free=True),
    "hang-rank": Row(FailureClass.HANG, blames=True),
    "slow-rank": Row(None),
    "oom-rank": Row(FailureClass.OOM, blames=True),
    "nan-loss": Row(FailureClass.NUMERIC, blames=True),
    "lose-device": Row(FailureClass.DEVICE, by_exit=True, blames=True),
    "alarm-device": Row(FailureClass.DEVICE, by_exit=True, blames=True),
    "kill-scheduler": Row(FailureClass.RENDEZVOUS, by_exit=True),
    "kill-supervisor": Row(FailureClass.NODE, by_exit=True),
    "kill-raylet": Row(None),
    "kill-controller": Row(None),
    "preempt": Row(FailureClass.PREEMPTION, free=True),
    "fill-disk": Row(FailureClass.STORAGE, may_fail=True),
    "corrupt-checkpoint": Row(None),
    "truncate-checkpoint": Row(None),
}
"""What each kind of fault is, in the words of the policy."""


def promised(kind: str, rank: int | None, moment: Moment, spec: JobSpec, ledger: Ledger) -> Promise:
    """What must follow of a fault; `ledger` is what was known just before it."""
    row = TABLE[kind]
    if moment.left and rank is not None:
        return Promise(same_attempt=True)  # its work was done: nothing is lost with it
    damaged = any(one.get("touched") for one in ledger.drills)
    known = None if damaged else moment.checkpoint
    if kind == "kill-controller":
        return _without_controller(moment, spec, ledger, known)
    if row.failure is None:
        return Promise(same_attempt=True, unused=moment.touched)
    saves = kind == "preempt" or (kind == "term-rank" and moment.stops)
    lost = 0 if saves else steps_at_risk(spec, ledger, damaged=damaged)
    return Promise(
        failure=row.failure,
        may_fail=row.may_fail,
        free=row.free,
        rank=rank if row.blames else None,
        goes_on=None if damaged else goes_on(row, spec, ledger),
        seen_within=EXIT_SEEN if row.by_exit else _hang_limit(kind, moment, spec, ledger),
        lost_at_most=lost,
        resumes_from=known,
    )


def _without_controller(
    moment: Moment, spec: JobSpec, ledger: Ledger, known: int | None
) -> Promise:
    """In a service the next one adopts the ranks; alone, somebody has to resume."""
    if moment.submitted:
        return Promise(same_attempt=True, another_controller=True)
    return Promise(
        another_controller=True,
        lost_at_most=steps_at_risk(spec, ledger, damaged=known is None),
        resumes_from=known,
    )


def steps_at_risk(spec: JobSpec, ledger: Ledger, *, damaged: bool) -> int | None:
    """At most so many steps are trained again: what lies between two states that were saved.

    Snapshots count, since they outlive every process of the run, and no drill takes the machine's
    memory away. A smaller world takes none.
    """
    if damaged:
        return None
    small = ledger.world is not None and not ledger.world.whole
    saved = spec.checkpoint
    intervals = (saved.every_steps, None if small else saved.snapshot_every_steps)
    return min((steps for steps in intervals if steps is not None), default=None)


def goes_on(row: Row, spec: JobSpec, ledger: Ledger) -> bool | None:
    """Whether the budget of the class has a restart left; None where more than that decides."""
    assert row.failure is not None
    if ledger.without_gain + 1 >= spec.restart.no_progress and not row.free:
        return None
    budget = spec.restart.budgets[row.failure]
    if row.free or budget is None:
        return True
    return ledger.charged.get(row.failure, 0) < budget


def _hang_limit(kind: str, moment: Moment, spec: JobSpec, ledger: Ledger) -> float | None:
    """Seconds after which a stopped rank counts as hung, in the phase that it was stopped in."""
    if kind != "hang-rank":
        return None
    if moment.phase != "train":
        limit = spec.health.phase_timeouts.get(moment.phase)
        return None if limit is None else limit + _LOOKS
    if spec.health.heartbeat_timeout is None and moment.slowest <= 0:
        return None
    law, before = spec.health, ledger.step_p99
    return hang_limit((moment.slowest,), law.heartbeat_timeout, 0.0, law.hang, before) + _LOOKS
