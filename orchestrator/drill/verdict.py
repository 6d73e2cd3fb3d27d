"""Did the run keep its word? What the journal tells of a fault, beside the promise. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.drill.faults import Fault, parse
from orchestrator.drill.promise import TABLE, Moment, Promise, promised
from orchestrator.journal import Event
from orchestrator.ledger import fold
from orchestrator.spec import JobSpec

QUIET_STEPS = 5
"""Steps after a fault of which nothing fails, until it counts as survived."""


@dataclass(frozen=True)
class Found:
    """What has followed of a fault so far."""

    incident: Event | None = None
    decision: Event | None = None
    attempt: Event | None = None
    recovered: Event | None = None
    resumed: Event | None = None
    verified: bool = False
    """Whether the checkpoint that the next attempt got had been verified."""
    used: tuple[str, ...] = ()
    controller: Event | None = None
    waits: bool = False
    ended: str = ""
    others: bool = False
    """Whether what failed in this attempt was another fault's doing."""

    def text(self) -> str:
        """In a line, for a person."""
        if self.incident is None:
            what = "no failure"
            if self.controller is not None:
                what = f"{self.controller.reason}"
            return what + (f", {self.ended}" if self.ended else "")
        data = self.incident.data
        parts = [f"class {data['class']}" + (", free of charge" if data["free"] else "")]
        if data["detected_after"] is not None:
            parts.append(f"seen after {data['detected_after']:.2f} s")
        if self.decision is not None and not self.decision.data["retry"]:
            parts.append("ended")
        elif self.attempt is not None:
            parts.append(f"resumed from step {self.attempt.data['resumed_step']}")
        if self.recovered is not None:
            split = self.recovered.data["incident"]
            parts.append(f"{split['steps_lost']} steps lost")
            parts.append(f"back after {split['first_step_after']:.1f} s")
        elif self.waits:
            parts.append("waits for devices")
        return ", ".join(parts)


def open_drills(events: Sequence[Event]) -> list[int]:
    """Where in the journal faults stand that nobody has judged yet."""
    judged = [event.data["drilled_at"] for event in events if event.kind == "drill_result"]
    return [
        place
        for place, event in enumerate(events)
        if event.kind == "drill" and event.data["at"] not in judged
    ]


def results_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The verdicts since a controller has last taken the run up."""
    begun = max((n for n, event in enumerate(events) if event.kind == "controller"), default=0)
    return [event.data for event in events[begun:] if event.kind == "drill_result"]


def fault_of(event: Event) -> Fault:
    """The fault that a journal's entry is of."""
    return parse(event.data["fault"])


def moment_of(event: Event) -> Moment:
    """What was so at that moment, as far as it was written down."""
    names = {field.name for field in fields(Moment)}
    return Moment(**{key: value for key, value in event.data.items() if key in names})


def promise_of(spec: JobSpec, events: Sequence[Event], place: int) -> Promise:
    """What the policy promised of the fault that stands there."""
    fault = fault_of(events[place])
    return promised(fault.kind, fault.rank, moment_of(events[place]), spec, fold(events[:place]))


def follow(events: Sequence[Event], place: int) -> Found:
    """What the journal tells after a fault, up to its way back or the run's end."""
    drill, after = events[place], events[place + 1 :]
    incident = _first(after, "failure", drill.attempt)
    others = _someone_elses(events, place, incident)
    if others:
        incident = None
    decision = _first(_since(after, incident), "decision")
    controller = _first(after, "controller")
    attempt = next((e for e in after if e.kind == "attempt" and e.attempt > drill.attempt), None)
    back = _since(after, attempt)
    number = attempt.attempt if attempt else -1
    return Found(
        incident=incident,
        decision=decision,
        attempt=attempt,
        recovered=_first(back, "recovered", number),
        resumed=_first(back, "resumed", number),
        verified=_was_verified(events, attempt),
        used=tuple(e.data.get("resumed_from") or "" for e in after if e.kind == "attempt"),
        controller=controller,
        waits=any(event.kind == "waiting" for event in _since(after, decision)),
        ended=_end(after),
        others=others,
    )


def settled(events: Sequence[Event], place: int, promise: Promise, found: Found, step: int) -> bool:
    """Whether what follows is known: it is back, or nothing has failed for some steps, or ended.

    `step` is the newest of the gang now.
    """
    if found.ended or found.recovered is not None or found.waits:
        return True
    if found.incident is not None:
        return False
    moment = moment_of(events[place])
    if promise.another_controller:
        expects = found.controller is not None and (promise.same_attempt or found.attempt)
        return bool(expects) and step > moment.step
    if promise.failure is not None and not promise.may_fail:
        return False
    return step >= moment.step + QUIET_STEPS


def compare(promise: Promise, found: Found, *, alive: Sequence[int] = ()) -> list[str]:
    """What was promised and did not come, a sentence each; none: the run kept its word.

    `alive` are processes of the broken gang that still run, though another attempt has begun.
    """
    problems = [
        *_about_failure(promise, found),
        *_about_way_back(promise, found),
    ]
    if alive and found.attempt is not None:
        problems.append(f"processes of the old gang still run: {sorted(alive)}")
    if promise.unused is not None and promise.unused in found.used:
        problems.append(f"an attempt resumed from the damaged {promise.unused}")
    return problems


def _about_failure(promise: Promise, found: Found) -> list[str]:
    if found.incident is None:
        return _about_no_failure(promise, found)
    data: dict[str, Any] = found.incident.data
    if promise.failure is None:
        return [f"it failed, class {data['class']}: {data['cause']}"]
    problems = []
    if data["class"] != promise.failure.value:
        problems.append(
            f"class {data['class']} ({data['rule']}) instead of {promise.failure.value}"
        )
    if data["free"] != promise.free:
        problems.append("charged to a budget" if promise.free else "not charged to a budget")
    if promise.rank is not None and data["rank"] != promise.rank:
        problems.append(f"blamed rank {data['rank']} instead of {promise.rank}")
    seen = data["detected_after"]
    late = promise.seen_within is not None and seen is not None and seen > promise.seen_within
    if late and data.get("fault_at_source") == "drill":
        problems.append(f"{LATE} {seen:.2f} s instead of {promise.seen_within:g} s")
    return problems


LATE = "seen after"
"""How the problem begins that a busy machine alone may cause."""


def _about_no_failure(promise: Promise, found: Found) -> list[str]:
    if promise.failure is not None and not promise.may_fail:
        how = f"the run is {found.ended}" if found.ended else "nothing has come of it"
        return [f"no failure of class {promise.failure.value} was seen: {how}"]
    problems = []
    if promise.same_attempt and found.attempt is not None and not found.others:
        problems.append("the gang was stopped and started again")
    if promise.another_controller and found.controller is None:
        problems.append("no other controller has taken the run up")
    if found.ended == "FAILED" and not found.others:
        problems.append("the run has failed")
    return problems


def _about_way_back(promise: Promise, found: Found) -> list[str]:
    retried = found.decision is not None and found.decision.data["retry"]
    problems = []
    if promise.goes_on is not None and found.decision is not None and promise.goes_on != retried:
        problems.append(
            "it was not to start again" if retried else f"it ended: {found.decision.reason}"
        )
    if found.attempt is None or promise.same_attempt:
        return problems
    data = found.attempt.data
    resumed = data["resumed_step"]
    if promise.resumes_from is not None and resumed < promise.resumes_from:
        problems.append(f"resumed from step {resumed}, though {promise.resumes_from} was saved")
    if data.get("resumed_from"):
        if not found.verified:
            problems.append(f"resumed from {data['resumed_from']}, which was not verified")
        if found.recovered is not None and found.resumed is None:
            problems.append("the ranks gave no proof of what they resumed from (Rank.resumed)")
    return [*problems, *_about_steps(promise, found)]


def _about_steps(promise: Promise, found: Found) -> list[str]:
    if found.recovered is None or promise.lost_at_most is None:
        return []
    lost = found.recovered.data["incident"]["steps_lost"]
    if lost <= promise.lost_at_most:
        return []
    return [f"{lost} steps lost instead of at most {promise.lost_at_most}"]


def _someone_elses(events: Sequence[Event], place: int, incident: Event | None) -> bool:
    """Whether a failure is explained by another fault of the same attempt."""
    if incident is None:
        return False
    mine = _fails(events[place])
    others = [
        event
        for number, event in enumerate(events)
        if event.kind == "drill" and number != place and event.attempt == incident.attempt
    ]
    return not mine and any(map(_fails, others))


def _fails(event: Event) -> bool:
    return TABLE[fault_of(event).kind].failure is not None


def _was_verified(events: Sequence[Event], attempt: Event | None) -> bool:
    """By the journal; of a snapshot, which no event tells of, by the digest that was checked."""
    path = attempt.data.get("resumed_from") if attempt else None
    if attempt is None or path is None:
        return False
    if attempt.data.get("snapshot"):
        return bool(attempt.data.get("digest"))
    return any(
        event.kind in ("checkpoint", "promoted")
        and event.data["path"] == path
        and event.data["verified"]
        for event in events
    )


def _end(events: Sequence[Event]) -> str:
    states = [event.state for event in events if event.state is not None]
    return states[-1].value if states and states[-1].terminal else ""


def _first(events: Sequence[Event], kind: str, attempt: int | None = None) -> Event | None:
    return next((e for e in events if e.kind == kind and attempt in (None, e.attempt)), None)


def _since(events: Sequence[Event], event: Event | None) -> Sequence[Event]:
    return events[events.index(event) :] if event is not None else ()
