"""Is the gang well? Pure decisions over what was observed of its ranks.

Times are CLOCK_MONOTONIC seconds of the node.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.heartbeat import Heartbeat
from orchestrator.states import RankState

HANG_FLOOR = 60.0
"""No training rank is called hung sooner, in seconds: the noise of a shared machine."""

_HANG_FACTOR = 5.0
_PERCENTILE = 0.99
_LEAVE_GRACE = 60.0
_FAILED_GRACE = 0.5


@dataclass(frozen=True)
class Exit:
    """How a process ended: an exit code or a signal, and when."""

    code: int | None
    signal: int | None
    at: float
    asked: bool = False  # we were stopping it

    @property
    def clean(self) -> bool:
        return self.code == 0


@dataclass(frozen=True)
class RankView:
    """All that is known of one rank of the running attempt."""

    rank: int
    pid: int | None = None
    start_time: int | None = None
    started_at: float | None = None
    exit: Exit | None = None
    beat: Heartbeat | None = None
    error: Mapping[str, Any] | None = None
    start_failed: str | None = None

    @property
    def succeeded(self) -> bool:
        """Finished its work: said so, or never used the contract and left with 0."""
        if self.beat is not None:
            return self.beat.done
        return self.exit is not None and self.exit.clean

    def state(self) -> RankState:
        """The rank's state as a table shows it."""
        if self.start_failed is not None:
            return RankState.FAILED
        if self.exit is not None:
            if self.succeeded:
                return RankState.SUCCEEDED
            return RankState.STOPPED if self.exit.asked else RankState.FAILED
        if self.pid is None:
            return RankState.PENDING
        if self.beat is None:
            return RankState.STARTING
        return RankState.SUCCEEDED if self.beat.done else _PHASE_STATES[self.beat.phase]


_PHASE_STATES = {
    "init": RankState.STARTING,
    "join": RankState.JOINING,
    "load": RankState.LOADING,
    "compile": RankState.COMPILING,
    "train": RankState.TRAINING,
    "snapshot": RankState.CHECKPOINTING,
    "checkpoint": RankState.CHECKPOINTING,
    "evaluate": RankState.EVALUATING,
}


class Sign(enum.Enum):
    """What gave a failure away."""

    EXIT = "exit"
    ERROR = "error"
    LEFT_EARLY = "left early"
    NOT_STARTED = "not started"
    SCHEDULER = "scheduler"
    HANG = "hang"
    SUPERVISOR = "supervisor"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Suspect:
    """A failure as first seen: who, when, by what sign. `rank` None is not a rank's."""

    rank: int | None
    at: float
    sign: Sign
    cause: str


@dataclass(frozen=True)
class Limits:
    """How long a rank may stay in a phase and between steps, in seconds."""

    phases: Mapping[str, float]
    heartbeat: float | None = None  # None: learnt from the steps


@dataclass(frozen=True)
class Observation:
    """One look at the gang."""

    now: float
    ranks: tuple[RankView, ...]
    scheduler_exit: Exit | None = None
    step_times: Sequence[float] = field(default=())


def finished(observation: Observation) -> bool:
    """Whether every rank has done its work and left, or has had time enough to leave."""
    if not all(view.succeeded for view in observation.ranks):
        return False
    last = max(_done_at(view) for view in observation.ranks)
    return all(view.exit for view in observation.ranks) or observation.now > last + _LEAVE_GRACE


def first_failure(observation: Observation, limits: Limits) -> Suspect | None:
    """The earliest sign of failure: what came after it is its echo. None: all is well."""
    suspects = [
        suspect
        for view in observation.ranks
        for suspect in _suspects(view, observation, limits)
        if suspect is not None
    ]
    suspects += _scheduler(observation)
    return min(suspects, key=lambda suspect: suspect.at, default=None)


def hang_limit(step_times: Sequence[float], given: float | None) -> float:
    """Seconds without a step after which a training rank counts as hung.

    Five times the 99th percentile of the run's own steps, at least `HANG_FLOOR`.
    """
    if given is not None:
        return given
    if not step_times:
        return math.inf
    ordered = sorted(step_times)
    worst = ordered[min(len(ordered) - 1, int(_PERCENTILE * len(ordered)))]
    return max(HANG_FLOOR, _HANG_FACTOR * worst)


def _suspects(view: RankView, seen: Observation, limits: Limits) -> tuple[Suspect | None, ...]:
    if view.start_failed is not None:
        return (Suspect(view.rank, seen.now, Sign.NOT_STARTED, view.start_failed),)
    if view.succeeded:
        return ()
    return (_bad_error(view, seen.now), _bad_exit(view), _hang(view, seen, limits))


def _bad_error(view: RankView, now: float) -> Suspect | None:
    """A rank that raised is failed before it has left: its exit may take a minute."""
    if view.error is not None:
        at = float(view.error["monotonic"])
        first_line = str(view.error["message"]).strip().partition("\n")[0]
        return Suspect(view.rank, at, Sign.ERROR, f"{view.error['type']}: {first_line}")
    if view.beat is not None and view.beat.failed and now > view.beat.beat_at + _FAILED_GRACE:
        return Suspect(view.rank, view.beat.beat_at, Sign.ERROR, "it raised an exception")
    return None


def _bad_exit(view: RankView) -> Suspect | None:
    if view.exit is None or view.exit.asked:
        return None
    if view.exit.signal is not None:
        cause = f"killed by {signal_name(view.exit.signal)}"
        return Suspect(view.rank, view.exit.at, Sign.EXIT, cause)
    if view.exit.code:
        return Suspect(view.rank, view.exit.at, Sign.EXIT, f"exit code {view.exit.code}")
    cause = "left with exit code 0 before it was done"
    return Suspect(view.rank, view.exit.at, Sign.LEFT_EARLY, cause)


def _hang(view: RankView, seen: Observation, limits: Limits) -> Suspect | None:
    beat = view.beat
    if beat is None or view.exit is not None:
        return None
    if beat.phase == "train":
        limit = hang_limit(seen.step_times, limits.heartbeat)
        since = beat.phase_at if math.isnan(beat.step_at) else max(beat.step_at, beat.phase_at)
        what = f"no step for {limit:.0f} s while training"
    else:
        limit = limits.phases.get(beat.phase, math.inf)
        since = beat.phase_at
        what = f"in phase {beat.phase} for more than {limit:.0f} s"
    if seen.now - since <= limit:
        return None
    return Suspect(view.rank, since + limit, Sign.HANG, what)


def _scheduler(seen: Observation) -> list[Suspect]:
    """The scheduler may leave when the ranks are done with it, never before."""
    ended = seen.scheduler_exit
    if ended is None or ended.asked or any(view.succeeded for view in seen.ranks):
        return []
    how = f"killed by {signal_name(ended.signal)}" if ended.signal else f"exit code {ended.code}"
    return [Suspect(None, ended.at, Sign.SCHEDULER, f"the rendezvous scheduler ended: {how}")]


def _done_at(view: RankView) -> float:
    if view.beat is not None and view.beat.done:
        return view.beat.beat_at
    return view.exit.at if view.exit is not None else 0.0


def signal_name(number: int) -> str:
    """SIGKILL for 9; the number where it has no name."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
