"""Is the gang well? Pure decisions over what was observed of its ranks.

Times are CLOCK_MONOTONIC seconds of the node.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.heartbeat import PHASES, Heartbeat
from orchestrator.spec import Hang
from orchestrator.states import RankState

HANG_FLOOR = Hang().floor
"""No training rank is called hung sooner, in seconds, unless its job says so."""

_PERCENTILE = 0.99
_ENOUGH_STEPS = 100
NOT_DETERMINED = "; which rank is the cause: not determined"
_LEAVE_GRACE = 60.0
_AHEAD = 2
"""Steps by which ranks that wait for each other may seem apart: no look sees all at once."""
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
    start_errno: int | None = None
    process_state: str = ""  # T: stopped, D: uninterruptible; else nothing worth saying
    log_at: float | None = None  # when its log last grew

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
    IGNORED_RESUME = "ignored resume"
    WRONG_RESUME = "wrong resume"
    NUMERIC = "numeric"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Suspect:
    """A failure as first seen: who, when, by what sign. `rank` None is not a rank's."""

    rank: int | None
    at: float
    sign: Sign
    cause: str
    trusted_step: int | None = None  # what was saved after this step is in doubt; None: nothing is


@dataclass(frozen=True)
class Limits:
    """How long a rank may stay in a phase and between steps, in seconds."""

    phases: Mapping[str, float]
    heartbeat: float | None = None  # None: learnt from the steps
    hang: Hang = field(default_factory=Hang)
    earlier_p99: float | None = None
    """What 99 of 100 steps of the run's earlier attempts took at most; None: not known."""


@dataclass(frozen=True)
class Observation:
    """One look at the gang."""

    now: float
    """The supervisor's clock at its last word, so that a backlog is not taken for silence."""
    ranks: tuple[RankView, ...]
    begun_at: float = 0.0
    scheduler_exit: Exit | None = None
    step_times: Sequence[float] = field(default=())
    silent: Suspect | None = None
    """Trouble that no rank has noticed itself: a bad loss, parameters that differ."""


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
        for suspect in _suspects(view, observation.now)
        if suspect is not None
    ]
    suspects += _scheduler(observation)
    suspects += [observation.silent] if observation.silent is not None else []
    if suspects:
        return min(suspects, key=lambda suspect: suspect.at)
    return _hang(observation, limits)


def hang_limit(
    step_times: Sequence[float],
    given: float | None,
    first: float,
    law: Hang | None = None,
    earlier_p99: float | None = None,
) -> float:
    """Seconds without a step after which a training rank counts as hung.

    `law.factor` times the 99th percentile of the run's own steps, within `law.floor` and
    `law.ceiling`; `first` as long as no step was seen, since the first may compile. Those of
    earlier attempts count until this one has made enough of its own.
    """
    law = law or Hang()
    if given is not None:
        return given
    if not step_times and earlier_p99 is None:
        return first
    before = earlier_p99 if earlier_p99 is not None and len(step_times) < _ENOUGH_STEPS else 0.0
    if law.factor * max((*step_times, before)) <= law.floor:
        return law.floor  # nearly always so; sorting a thousand steps at every look is dear
    slow = max(p99(step_times) or 0.0, before)
    return min(law.ceiling, max(law.floor, law.factor * slow))


def p99(step_times: Sequence[float]) -> float | None:
    """What 99 of 100 steps took at most, in seconds; None without any."""
    if not step_times:
        return None
    ordered = sorted(step_times)
    return ordered[min(len(ordered) - 1, int(_PERCENTILE * len(ordered)))]


def _suspects(view: RankView, now: float) -> tuple[Suspect | None, ...]:
    if view.start_failed is not None:
        return (Suspect(view.rank, now, Sign.NOT_STARTED, view.start_failed),)
    if view.succeeded:
        return ()
    return (_bad_error(view, now), _bad_exit(view))


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


def _hang(seen: Observation, limits: Limits) -> Suspect | None:
    """The hung rank, if one can be told from its peers; rank None if all look alike.

    In a collective every rank waits for the one that does not come. That one is behind, or
    its process is stopped; where neither is seen, nobody is named. A last word that came since
    the look says that the others were seen too long ago to be judged.
    """
    if any(view.beat is not None and view.beat.beat_at > seen.now for view in seen.ranks):
        return None
    present = [view for view in seen.ranks if not view.succeeded and view.exit is None]
    training = _training_limit(seen, limits)
    silences = {view.rank: _silence(view, seen, limits, training) for view in present}
    late = [view for view in present if silences[view.rank].over(seen.now)]
    busy = [view for view in present if view.beat is None or view.beat.phase != "train"]
    stuck = [view for view in late if view in busy]
    # Who waits in a collective for a peer that saves, compiles or evaluates is not hung.
    if not late or (busy and not stuck):
        return None
    at = min(silences[view.rank].until for view in stuck or late)
    # Ranks cross the limit milliseconds apart: the first across it need not be the cause.
    culprit = _culprit(stuck or present)
    if culprit is None:
        what = silences[late[0].rank].what
        return Suspect(None, at, Sign.HANG, what + NOT_DETERMINED)
    stopped = "; its process is stopped" if culprit.process_state in _STOPPED else ""
    return Suspect(culprit.rank, at, Sign.HANG, silences[culprit.rank].what + stopped)


_STOPPED = frozenset({"T", "t"})


def _culprit(present: Sequence[RankView]) -> RankView | None:
    """The one that differs from its peers: stopped, else behind, else waiting for a device."""

    def behind(view: RankView) -> tuple[int, int]:
        if view.beat is None:
            return (-1, -1)
        return (view.beat.step, PHASES.index(view.beat.phase))

    least = min(behind(view) for view in present)
    for differing in (
        [view for view in present if view.process_state in _STOPPED],
        [view for view in present if behind(view) == least],
        [view for view in present if view.process_state == "D"],
    ):
        if len(differing) == 1:
            return differing[0]
    return None


@dataclass(frozen=True)
class _Silence:
    """Since when a rank is silent, how long it may be, and what to call it after that."""

    since: float
    limit: float
    what: str

    @property
    def until(self) -> float:
        return self.since + self.limit

    def over(self, now: float) -> bool:
        return now > self.until


def _training_limit(seen: Observation, limits: Limits) -> float:
    first = limits.phases.get("train", limits.phases.get("compile", math.inf))
    # Before its first step a rank may compile, whatever earlier attempts took.
    began = all(view.beat.step >= 0 for view in seen.ranks if view.beat and not view.beat.done)
    earlier = limits.earlier_p99 if began else None
    return hang_limit(seen.step_times, limits.heartbeat, first, limits.hang, earlier)


def _silence(view: RankView, seen: Observation, limits: Limits, training: float) -> _Silence:
    beat = view.beat
    if view.pid is None:
        limit = limits.phases.get("init", math.inf)
        return _Silence(seen.begun_at, limit, f"not started within {limit:.0f} s")
    if beat is None:
        # It may never use the contract: then only its log shows that it lives.
        limit = limits.heartbeat or limits.phases.get("compile", math.inf)
        since = max(view.started_at or seen.begun_at, view.log_at or 0.0)
        return _Silence(since, limit, f"neither heartbeat nor output for {limit:.0f} s")
    if beat.phase != "train":
        limit = limits.phases.get(beat.phase, math.inf)
        return _Silence(beat.phase_at, limit, f"in phase {beat.phase} for more than {limit:.0f} s")
    # Whoever waited for a peer that saved or evaluated could make no step meanwhile.
    together = max(_waited_until(peer, beat.step) for peer in seen.ranks)
    since = together if math.isnan(beat.step_at) else max(beat.step_at, together)
    return _Silence(since, training, f"no step for {training:.0f} s while training")


def _waited_until(peer: RankView, step: int) -> float:
    """Until when a rank at `step` may have waited for a peer; minus infinity: for none.

    A peer that returned to training gives it the time from there. One that has made the next
    step already shows that the rank took part in that: its own word of it is a moment behind.
    """
    beat = peer.beat
    if beat is None or beat.phase != "train" or beat.step > step + _AHEAD:
        return -math.inf
    return beat.phase_at if beat.step <= step else beat.step_at


def _scheduler(seen: Observation) -> list[Suspect]:
    """The scheduler leaves by itself, with 0, when the ranks have left it; else it broke."""
    ended = seen.scheduler_exit
    broke = ended is not None and not ended.asked and not ended.clean
    if ended is None or not broke or any(view.succeeded for view in seen.ranks):
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
