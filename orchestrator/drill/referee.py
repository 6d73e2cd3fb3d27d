"""The referee of a running controller: injects faults, ends what lasts, says what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from orchestrator import checkpoints, processes
from orchestrator.drill import injection, verdict
from orchestrator.drill.faults import Fault, FaultError, due
from orchestrator.drill.injection import Lasting, Target
from orchestrator.drill.promise import Moment
from orchestrator.gang import Gang
from orchestrator.health import RankView
from orchestrator.journal import Event
from orchestrator.recorder import Recorder
from orchestrator.spec import JobSpec
from orchestrator.states import JobState

_PERIOD = 0.5


class Referee:
    """Of one controller. A fault that an earlier one injected is judged too."""

    def __init__(self, spec: JobSpec, recorder: Recorder, *, submitted: bool) -> None:
        self._spec = spec
        self._recorder = recorder
        self._submitted = submitted
        self._lasting: list[Lasting] = []
        self._next = 0.0
        self._open = bool(recorder.ledger.drills)

    def inject(self, faults: list[Fault], target: Callable[[], Target], gang: Gang) -> None:
        """Inject those whose moment has come, and take them off the list."""
        for fault in [fault for fault in faults if due(fault, gang.views)]:
            faults.remove(fault)
            try:
                self._inject(fault, target(), gang)
            except (FaultError, OSError) as error:
                self._recorder.record("note", f"drill {fault}: {error}")
                self._refuse(fault, str(error))

    def _inject(self, fault: Fault, target: Target, gang: Gang) -> None:
        moment = moment_of(
            fault, target, gang.views, gang.observe().step_times, submitted=self._submitted
        )
        if fault.kind == "kill-controller":
            self._record(fault, moment, time.monotonic())  # it will not come back to do so
        at = time.monotonic()
        lasting = injection.inject(fault, target)
        if lasting is not None:
            self._lasting.append(lasting)
        # Afterwards: a record takes the disk's time, which is not the fault's.
        self._record(fault, moment, at)

    def _record(self, fault: Fault, moment: Moment, at: float) -> None:
        self._recorder.record("drill", str(fault), **entry(fault, moment, at))
        self._open = True

    def look(self, gang: Gang) -> None:
        """End what is over, and judge what is settled."""
        for lasting in [one for one in self._lasting if one.over()]:
            lasting.end()
            self._lasting.remove(lasting)
        if self._open and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PERIOD
            self._judge(gang.last_step, at_end=False)

    def calm(self) -> None:
        """End every fault that lasts: the attempt that it was for is over."""
        for lasting in self._lasting:
            lasting.end()
        self._lasting.clear()

    def close(self, left: Sequence[Fault]) -> None:
        """The run has ended: judge what is open; `left` are those whose moment did not come."""
        self.calm()
        if self._open:
            self._judge(0, at_end=True)
        ledger = self._recorder.ledger
        why = f": the run has failed: {ledger.reason}" if ledger.state is JobState.FAILED else ""
        for fault in left:
            self._refuse(fault, f"its moment did not come{why}")

    def _judge(self, step: int, *, at_end: bool) -> None:
        events = self._recorder.events()
        places = verdict.open_drills(events)
        self._open = bool(places)
        for place in places:
            told = result_of(self._spec, events, place, step, at_end=at_end)
            if told is not None:
                reason, data = told
                self._recorder.record("drill_result", reason, **data)

    def _refuse(self, fault: Fault, why: str) -> None:
        reason, data = refused(fault, why)
        self._recorder.record("drill_result", reason, **data)


def moment_of(
    fault: Fault,
    target: Target,
    views: Sequence[RankView],
    step_times: Sequence[float],
    *,
    submitted: bool,
) -> Moment:
    """What is so now, as far as the promise depends on it."""
    watched = [view for view in views if fault.rank in (None, view.rank)]
    beats = [view.beat for view in watched if view.beat is not None]
    whole = [found.step for found in checkpoints.catalogue(target.checkpoints)]
    return Moment(
        phase=beats[0].phase if beats else "",
        step=max((view.beat.step for view in views if view.beat is not None), default=0),
        checkpoint=max(whole, default=0),
        stops=len(beats) == len(watched) and all(beat.stops for beat in beats),
        slowest=max(step_times, default=0.0),
        touched=injection.touches(fault, target),
        submitted=submitted,
        left=bool(watched) and all(view.succeeded for view in watched),
    )


def entry(fault: Fault, moment: Moment, at: float) -> dict[str, object]:
    """What the journal keeps of an injected fault."""
    return {"fault": str(fault), "rank": fault.rank, "at": at, **asdict(moment)}


def result_of(
    spec: JobSpec, events: Sequence[Event], place: int, step: int, *, at_end: bool
) -> tuple[str, dict[str, object]] | None:
    """The verdict about a fault, as an event's reason and data; None while it is not settled."""
    promise = verdict.promise_of(spec, events, place)
    found = verdict.follow(events, place)
    if not at_end and not verdict.settled(events, place, promise, found, step):
        return None
    drill = events[place]
    problems = verdict.compare(promise, found, alive=_alive(events, drill))
    return _told(drill.data["fault"], promise.text(), found.text(), problems, drill.data["at"])


def refused(fault: Fault, why: str) -> tuple[str, dict[str, object]]:
    """The result of a drill that could not be held."""
    return _told(str(fault), "", "not injected", [why], None)


def _told(
    fault: str, promised: str, found: str, failures: list[str], at: float | None
) -> tuple[str, dict[str, object]]:
    verdict_ = "passed" if not failures else "FAILED: " + "; ".join(failures)
    data = {
        "fault": fault,
        "promised": promised,
        "found": found,
        "passed": not failures,
        "failures": failures,
        "drilled_at": at,
    }
    return f"{fault} {verdict_}", data


def _alive(events: Sequence[Event], drill: Event) -> list[int]:
    """Processes of the gang that was broken which still run."""
    running = [e for e in events if e.kind == "running" and e.attempt == drill.attempt]
    pids = running[-1].data.get("pids", []) if running else []
    return [pid for _, pid, start in pids if pid is not None and _same(pid, start)]


def _same(pid: int, start_time: int | None) -> bool:
    identity = processes.identify(pid)
    return identity is not None and identity.start_time == start_time and identity.alive()
